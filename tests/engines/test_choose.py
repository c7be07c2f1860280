"""Which engine runs, and how long it is kept; the engines themselves are stand-ins."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from encoders import MIXED, encoder_of, texts_of
from pipelines import TEXTS, blank, examples, initialized
from torch import nn

from spacy_bertft import compat
from spacy_bertft.engines import choose
from spacy_bertft.engines.choose import Engines, candidates, uses_half
from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.engines.transformers import TransformersEngine
from spacy_bertft.learning.optimizer import ModuleOptimizer
from spacy_bertft.learning.step_settings import StepSettings

pytestmark = pytest.mark.touches_transformers

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PLAIN = {"padded": False, "learning": False}


# --- the table


def test_prediction_on_a_cpu_is_fused_where_the_family_is_known():
    assert candidates(CPU, **PLAIN) == ("fused", "transformers")


def test_training_on_a_cpu_is_fused_where_the_family_is_known():
    assert candidates(CPU, **(PLAIN | {"learning": True})) == ("fused_training", "transformers")


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("device", [CPU, CUDA, torch.device("mps")])
def test_all_else_is_for_transformers(device, padded, learning):
    found = candidates(device, padded=padded, learning=learning)
    if device.type != "cpu" or padded:
        assert found == ("transformers",)
    else:
        assert found[-1] == "transformers"


# --- precision


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_auto_is_half_where_a_device_has_it_but_on_a_cpu_in_engines_of_our_own_alone(device, fused, able, monkeypatch):
    monkeypatch.setattr(compat, "has_bfloat16", lambda device: able)
    assert uses_half("auto", device, fused=fused) is (able and (fused or device.type == "cuda"))


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_auto_is_half_on_a_cpu_only_where_sums_stay_float32(tiny_encoder, training, monkeypatch):
    def engine_of(encoder):
        return encoder.train(training).engine()

    bert = tiny_encoder("bert-uncased")
    assert engine_of(encoder_of(bert)).dtype == torch.float32
    monkeypatch.setattr(compat, "has_bfloat16", lambda device: True)
    assert engine_of(encoder_of(bert)).dtype == torch.bfloat16
    assert engine_of(encoder_of(bert, precision="float32")).dtype == torch.float32
    assert not engine_of(encoder_of(bert, batching="padded")).half
    assert engine_of(encoder_of(bert, batching="padded", precision="bfloat16")).half


@pytest.mark.parametrize(("precision", "expected"), [("bfloat16", True), ("float32", False)])
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_the_user_asks_for_is_what_runs(device, precision, expected, monkeypatch):
    monkeypatch.setattr(compat, "has_bfloat16", lambda device: not expected)
    assert uses_half(precision, device, fused=True) is expected


# --- what is kept


class Standing:
    """An encoder as engines see it. Its model is made when it is first asked for."""

    packed = True
    first_position = 2
    shape = None

    def __init__(self, device=CPU, loaded=True):
        self.device = device
        self.loaded = None
        if loaded:
            self.model  # noqa: B018

    @property
    def model(self):
        if self.loaded is None:
            self.loaded = nn.Linear(2, 2)
            self.loaded.device = self.device
        return self.loaded

    def weights(self):
        return self.model.state_dict()


class StandIn:
    """An engine that runs nothing."""


class Making:
    """A maker of engines that counts what it has made, and knows which are still there."""

    def __init__(self):
        self.made = []
        self.alive_at_making = []
        self.halves = []
        self.able = True

    def __call__(self, encoder, *, half):
        gc.collect()
        self.halves.append(half)
        self.alive_at_making.append(self.alive)
        if not self.able:
            return None
        engine = StandIn()
        self.made.append(weakref.ref(engine))
        return engine

    @property
    def alive(self):
        return sum(ref() is not None for ref in self.made)


@pytest.fixture
def fused(monkeypatch):
    maker = Making()
    monkeypatch.setattr(choose, "_make_fused", maker)
    return maker


def engines(precision="auto", padded=False):
    return Engines(precision=precision, padded=padded)


@pytest.mark.parametrize(("precision", "half"), [("float32", False), ("bfloat16", True), ("auto", False)])
def test_an_engine_is_made_in_the_precision_that_is_set(fused, precision, half):
    engines(precision).choose(Standing(), learning=False)
    assert fused.halves == [half]


def test_an_engine_is_kept_as_long_as_the_weights_stay(fused):
    encoder, ours = Standing(), engines()
    first = ours.choose(encoder, learning=False)
    assert ours.choose(encoder, learning=False) is first
    assert fused.alive == 1


def change_in_place(model):
    with torch.no_grad():
        model.weight.mul_(2.0)


def load(model):
    model.load_state_dict({key: value + 1 for key, value in model.state_dict().items()})


def replace(model):
    model.weight = nn.Parameter(torch.ones(2, 2))


def move(model):
    model.bias.data = torch.ones(2)


@pytest.mark.parametrize("change", [change_in_place, load, replace, move])
def test_weights_that_changed_get_a_new_engine_and_the_old_one_goes_first(fused, change):
    encoder, ours = Standing(), engines()
    ours.choose(encoder, learning=False)
    change(encoder.model)
    second = ours.choose(encoder, learning=False)
    assert ours.choose(encoder, learning=False) is second
    assert len(fused.made) == 2
    assert fused.alive_at_making == [0, 0]
    assert fused.alive == 1


def test_weights_that_took_a_step_get_a_new_engine(fused):
    encoder, ours = Standing(), engines()
    first = ours.choose(encoder, learning=False)
    encoder.model.weight.grad = torch.ones(2, 2)
    ModuleOptimizer(encoder.model).step(StepSettings(0.1, 0.0, (0.9, 0.999), 1e-8, 0.0))
    assert ours.choose(encoder, learning=False) is not first


def test_weights_at_rest_are_read_once_and_again_when_there_is_a_model(fused):
    encoder, ours = Standing(loaded=False), engines()
    first = ours.choose(encoder, learning=False)
    assert ours.choose(encoder, learning=False) is first
    assert encoder.loaded is None
    change_in_place(encoder.model)
    assert ours.choose(encoder, learning=False) is not first


def test_learning_lets_it_go(fused):
    encoder, ours = Standing(), engines()
    ours.choose(encoder, learning=False)
    engine = ours.choose(encoder, learning=True)
    assert isinstance(engine, TransformersEngine)
    assert engine.model is encoder.model
    gc.collect()
    assert fused.alive == 0
    assert not isinstance(ours.choose(encoder, learning=False), TransformersEngine)


def test_a_family_that_is_not_known_is_run_by_transformers(fused):
    fused.able = False
    encoder, ours = Standing(), engines()
    assert isinstance(ours.choose(encoder, learning=False), TransformersEngine)


@pytest.mark.parametrize(
    ("settings", "learning", "half"),
    [
        ({"precision": "bfloat16"}, True, True),
        ({"padded": True}, False, False),
        ({"padded": True, "precision": "bfloat16"}, False, True),
        ({}, True, False),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_transformers_model_is_run_as_the_encoder_says(fused, settings, learning, half, packed):
    encoder = Standing(loaded=False)
    encoder.packed = packed
    engine = engines(**settings).choose(encoder, learning=learning)
    assert isinstance(engine, TransformersEngine)
    assert engine.model is encoder.loaded
    assert (engine.half, engine.padded, engine.first_position) == (half, not packed, 2)
    assert not fused.alive_at_making


def test_what_is_fresh_has_the_settings_and_makes_an_engine_of_its_own(fused):
    encoder, ours = Standing(), engines("float32", padded=False)
    first = ours.choose(encoder, learning=False)
    fresh = ours.fresh()
    assert (fresh.precision, fresh.padded) == ("float32", False)
    assert fresh.choose(encoder, learning=False) is not first
    assert ours.choose(encoder, learning=False) is first
    assert engines("bfloat16", padded=True).fresh().padded


# --- a real encoder


@torch.no_grad()
def test_an_encoder_keeps_its_engine_until_it_has_learned(tiny_bert):
    encoder = encoder_of(tiny_bert)
    texts = texts_of(MIXED)
    first = encoder.engine()
    assert isinstance(first, FusedEngine)
    before = encoder(texts).hidden
    assert encoder.engine() is first
    with torch.enable_grad():
        encoder.train()(texts).hidden.square().sum().backward()
    torch.optim.AdamW(encoder.parameters(), lr=1e-2).step()
    after = encoder.eval()(texts).hidden
    assert isinstance(encoder.engine(), FusedEngine)
    assert encoder.engine() is not first
    assert not torch.allclose(after, before, atol=1e-2)


@pytest.mark.parametrize("annotates", [[], ["encoder"]])
def test_predictions_after_training_are_those_of_the_weights_that_are_saved(tiny_bert, annotates):
    nlp = initialized(tiny_bert)
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 1e-2
    nlp.update(examples(nlp), sgd=optimizer, annotates=annotates)
    found = list(nlp.pipe(TEXTS))
    again = blank(tiny_bert).from_bytes(nlp.to_bytes())
    for doc, expected in zip(found, again.pipe(TEXTS), strict=True):
        assert doc.cats == pytest.approx(expected.cats, abs=1e-4)


@torch.no_grad()
def test_a_copy_of_an_encoder_starts_without_an_engine(tiny_bert):
    encoder = encoder_of(tiny_bert)
    first = encoder.engine()
    twin = copy.deepcopy(encoder)
    assert twin.engine() is not first
    assert encoder.engine() is first
