"""Who reads an encoder: found by spaCy, registered, forgotten."""

from __future__ import annotations

import pytest
import spacy
from spacy.ty import ListenedToComponent
from thinc.api import Model

from spacy_bertft.components.readers import FeatureReader, WithReaders


class Encoder(WithReaders):
    """An encoder component, as far as its readers know it."""

    def __init__(self, name="encoder"):
        self.name = name
        self.listener_map = {}


class Reader:
    """A component that reads."""

    def __init__(self, name="ner", upstream=None):
        self.name = name
        self.upstream = upstream
        self.linked = []

    def link(self, encoder):
        self.linked.append(encoder)


class Layer(Model):
    """A layer of a model that reads."""

    def __init__(self, upstream=None):
        super().__init__("layer", forward=lambda model, inputs, is_train: (inputs, lambda gradient: gradient))
        self.upstream = upstream
        self.linked = []

    def link(self, encoder):
        self.linked.append(encoder)


class Component:
    """One that does not read itself; its model may."""

    def __init__(self, name, model=None):
        self.name = name
        if model is not None:
            self.model = model


def model_with(*layers):
    forward = layers[0]._func if layers else None
    return Model("outer", forward, layers=[Model("inner", forward, layers=list(layers))])


def test_what_reads_has_an_upstream_and_can_be_linked():
    assert isinstance(Reader(), FeatureReader)
    assert isinstance(Layer(), FeatureReader)
    assert not isinstance(Component("sentencizer"), FeatureReader)


def test_an_encoder_component_is_what_spacy_looks_for():
    pipe = spacy.blank("en").add_pipe("bertft_encoder")
    assert isinstance(pipe, WithReaders)
    assert isinstance(pipe, ListenedToComponent)


# --- registered and forgotten


def test_a_reader_that_is_added_is_linked():
    encoder, reader = Encoder(), Reader()
    encoder.add_listener(reader, "ner")
    assert reader.linked == [encoder]
    assert encoder.listeners == [reader]
    assert encoder.listening_components == ["ner"]


def test_readers_come_in_their_order_component_by_component():
    encoder = Encoder()
    readers = [Reader() for _ in range(4)]
    for reader, name in zip(readers, ["a", "b", "a", "c"], strict=True):
        encoder.add_listener(reader, name)
    assert encoder.listeners == [readers[0], readers[2], readers[1], readers[3]]
    assert encoder.listening_components == ["a", "b", "c"]


def test_a_reader_that_is_removed_leaves_the_others_of_its_component():
    encoder, one, two = Encoder(), Reader(), Reader()
    encoder.add_listener(one, "ner")
    encoder.add_listener(two, "ner")
    assert encoder.remove_listener(one, "ner") is True
    assert encoder.listener_map == {"ner": [two]}
    assert encoder.remove_listener(one, "ner") is False
    assert encoder.remove_listener(two, "ner") is True
    assert encoder.listener_map == {}


@pytest.mark.parametrize("name", ["other", "tagger"])
def test_one_that_is_not_there_is_not_removed(name):
    encoder, reader = Encoder(), Reader()
    encoder.add_listener(reader, "ner")
    encoder.add_listener(Reader(), "tagger")
    assert encoder.remove_listener(reader, name) is False
    assert len(encoder.listeners) == 2


def test_a_reader_is_forgotten_whatever_its_component():
    encoder, one, two = Encoder(), Reader(), Reader()
    for reader, name in ((one, "a"), (two, "a"), (one, "b")):
        encoder.add_listener(reader, name)
    encoder.forget(one)
    assert encoder.listener_map == {"a": [two]}
    encoder.forget(one)
    assert encoder.listeners == [two]


def test_readers_are_told_apart_by_what_they_are_and_not_by_what_they_equal():
    class Equal(Reader):
        def __eq__(self, other):
            return True

        __hash__ = None

    encoder, one, two = Encoder(), Equal(), Equal()
    encoder.add_listener(one, "ner")
    encoder.add_listener(two, "ner")
    encoder.forget(two)
    assert encoder.listeners[0] is one
    assert len(encoder.listeners) == 1


# --- found


@pytest.mark.parametrize("upstream", [None, "encoder"])
def test_a_head_of_this_encoder_or_of_the_nearest_is_found(upstream):
    encoder, reader = Encoder(), Reader(upstream=upstream)
    encoder.find_listeners(reader)
    assert encoder.listener_map == {"ner": [reader]}
    assert reader.linked == [encoder]


def test_a_head_of_another_encoder_is_not():
    encoder, reader = Encoder(), Reader(upstream="other")
    encoder.find_listeners(reader)
    assert encoder.listener_map == {}
    assert reader.linked == []


def test_layers_deep_in_a_model_are_found_by_their_upstream():
    encoder = Encoder()
    layers = [Layer(), Layer("encoder"), Layer("other")]
    encoder.find_listeners(Component("tagger", model_with(*layers)))
    assert encoder.listener_map == {"tagger": layers[:2]}
    assert [layer.linked for layer in layers] == [[encoder], [encoder], []]


def test_a_layer_that_stands_in_a_model_twice_is_one_reader():
    encoder, layer = Encoder(), Layer()
    encoder.find_listeners(Component("parser", model_with(layer, layer)))
    assert encoder.listeners == [layer]


@pytest.mark.parametrize("component", [Component("sentencizer"), Component("odd", model="no model of thinc's")])
def test_components_without_a_reader_are_passed_over(component):
    encoder = Encoder()
    encoder.find_listeners(component)
    assert encoder.listener_map == {}


def test_the_last_encoder_to_look_is_the_nearest():
    far, near, reader = Encoder("far"), Encoder("near"), Reader()
    for encoder in (far, near):  # in the order of the pipeline, as spaCy asks them
        encoder.find_listeners(reader)
    assert reader.linked == [far, near]
