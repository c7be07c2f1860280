"""Our heads on the `transformer` component of spacy-transformers, where that is installed."""

from __future__ import annotations

import pytest

pytest.importorskip("spacy_transformers")

import numpy as np
import spacy
import torch
from pipelines import annotations, module_of
from spacy.cli.train import train
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.util import fix_random_seed, registry
from spacy_transformers.layers import listener, trfs2arrays
from torch import nn

from spacy_bertft.components.transformer_source import TransformerSource
from spacy_bertft.encoder.pooling import doc_vectors, token_vectors
from spacy_bertft.errors import BertftError, ConfigError

pytestmark = [pytest.mark.peer, pytest.mark.touches_transformers]

WIDTH = 32
LISTENER = {
    "@architectures": "spacy-transformers.TransformerListener.v1",
    "grad_factor": 1.0,
    "pooling": {"@layers": "reduce_mean.v1"},
}
OURS = {"ner": "bertft_ner", "textcat": "bertft_textcat", "multilabel": "bertft_textcat_multilabel"}
# words, tags, heads, dependencies, entities, category
GOLD = [
    (
        "Anna lives in Berlin .",
        "NNP VBZ IN NNP .",
        [1, 1, 1, 2, 1],
        "nsubj ROOT prep pobj punct",
        "U-PERSON O O U-CITY O",
        "home",
    ),
    (
        "Bob Stone went to Rome .",
        "NNP NNP VBD IN NNP .",
        [1, 2, 2, 2, 3, 2],
        "compound nsubj ROOT prep pobj punct",
        "B-PERSON L-PERSON O O U-CITY O",
        "work",
    ),
    ("The garden sleeps .", "DT NN VBZ .", [1, 2, 2, 2], "det nsubj ROOT punct", "O O O O", "home"),
]
LONG = "Anna lives in Berlin . Bob Stone went to Rome . The garden sleeps . Clara met Bob in the old office in Oslo ."


def blank(encoder, components, *, window=128, stride=96, transformer="transformer", config=None):
    """A transformer and components on it: our heads, and spaCy's on listeners."""
    nlp = spacy.blank("en")
    model = {
        "@architectures": "spacy-transformers.TransformerModel.v3",
        "name": str(encoder),
        "tokenizer_config": {"use_fast": True},
        "get_spans": {"@span_getters": "spacy-transformers.strided_spans.v1", "window": window, "stride": stride},
    }
    nlp.add_pipe("transformer", name=transformer, config={"model": model})
    for name in components:
        add(nlp, name, **(config or {}).get(name, {}))
    return nlp


def add(nlp, name, **config):
    if name in OURS:
        nlp.add_pipe(OURS[name], name=name, config=config)
    else:
        model = dict(nlp.get_factory_meta(name).default_config["model"])
        nlp.add_pipe(name, config={"model": {**model, "tok2vec": LISTENER}, **config})


def examples(nlp):
    return [
        Example.from_dict(
            Doc(nlp.vocab, words=words.split()),
            {
                "words": words.split(),
                "tags": tags.split(),
                "heads": heads,
                "deps": deps.split(),
                "entities": entities.split(),
                "cats": {"home": float(category == "home"), "work": float(category == "work")},
            },
        )
        for words, tags, heads, deps, entities, category in GOLD
    ]


def initialized(encoder, components, **settings):
    nlp = blank(encoder, components, **settings)
    return start(nlp)


def start(nlp):
    fix_random_seed(0)
    optimizer = nlp.initialize(lambda: examples(nlp) * 12)  # the parser leaves rare labels out
    optimizer.learn_rate = 3e-3
    return nlp


def learn(nlp, steps=40, egs=None, exclude=(), **settings):
    """Losses of each step, which is taken as by `spacy train`."""
    found = []
    for _ in range(steps):
        losses: dict[str, float] = {}
        nlp.update((egs or examples)(nlp), sgd=False, losses=losses, exclude=exclude, **settings)
        for name, component in nlp.pipeline:
            if name not in exclude:
                component.finish_update(nlp._optimizer)
        nlp._optimizer.step_schedules()
        found.append(losses)
    return found


def network(nlp, name="transformer"):
    return nlp.get_pipe(name).model.transformer


def state(module):
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def changed(before, module):
    return any(not torch.equal(before[key], value) for key, value in module.state_dict().items())


def without_dropout(nlp):
    for module in network(nlp).modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    return nlp


def gradients(nlp, docs=()):
    """Of the transformer's weights, before any step."""
    fix_random_seed(0)
    more = [Example(Doc(nlp.vocab, words=words), Doc(nlp.vocab, words=words)) for words in docs]
    nlp.update([*examples(nlp), *more], sgd=False)
    return {
        key: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone()
        for key, parameter in network(nlp).named_parameters()
    }


ORDERS = [
    ("ner",),
    ("textcat",),
    ("multilabel",),
    ("tagger", "parser", "ner", "textcat"),
    ("ner", "textcat", "tagger", "parser"),
    ("textcat", "tagger", "ner", "parser", "multilabel"),
    ("parser", "multilabel", "ner"),
]


@pytest.mark.parametrize("components", ORDERS, ids="-".join)
def test_heads_and_components_on_listeners_learn_together(tiny_bert, components):
    nlp = initialized(tiny_bert, components)
    assert nlp.get_pipe("transformer").listening_components == list(components)
    before = state(network(nlp))
    losses = learn(nlp)
    for name in components:
        assert losses[-1][name] < 0.95 * losses[0][name]
    assert changed(before, network(nlp))
    scores = nlp.evaluate(examples(nlp))
    for name, score in {"ner": "ents_f", "tagger": "tag_acc", "parser": "dep_uas"}.items():
        assert name not in components or scores[score] > 0.9


@pytest.mark.parametrize(
    "components", [("ner", "textcat"), ("ner", "tagger", "textcat"), ("tagger", "ner", "parser"), ("textcat", "tagger")]
)
def test_the_transformers_gradient_is_the_sum_of_its_parts(tiny_bert, components, tmp_path):
    nlp = start(blank(tiny_bert, components, window=3, stride=2))
    learn(nlp, steps=5)  # the tagger starts at zero, and gives no gradient then
    nlp.to_disk(tmp_path)
    odd = [[], ["\n", " "], ["Oslo", " ", "sleeps"]]
    together = gradients(without_dropout(spacy.load(tmp_path)), odd)
    parts = []
    for name in components:
        others = [other for other in components if other != name]
        parts.append(gradients(without_dropout(spacy.load(tmp_path, exclude=others)), odd))
        assert any(gradient.abs().max() > 1e-4 for gradient in parts[-1].values())
    for key, gradient in together.items():
        torch.testing.assert_close(gradient, sum(part[key] for part in parts), rtol=1e-3, atol=1e-5)


def test_the_order_of_heads_does_not_matter_to_the_gradient(tiny_bert, tmp_path):
    nlp = start(blank(tiny_bert, ("ner", "tagger", "textcat")))
    learn(nlp, steps=5)
    nlp.to_disk(tmp_path)
    one, other = (without_dropout(spacy.load(tmp_path)) for _ in range(2))
    other.remove_pipe("ner")
    other.add_pipe("ner", source=spacy.load(tmp_path))
    assert other.get_pipe("transformer").listening_components == ["tagger", "textcat", "ner"]
    found = gradients(other)
    for key, gradient in gradients(one).items():
        torch.testing.assert_close(gradient, found[key], rtol=1e-3, atol=1e-5)


# --- a transformer that is kept as it is


def test_a_frozen_transformer_trains_the_heads_alone(tiny_bert):
    nlp = initialized(tiny_bert, ("ner", "tagger", "textcat"))
    before, heads = state(network(nlp)), {name: state(module_of(nlp, name)) for name in ("ner", "textcat")}
    for name in ("ner", "textcat"):
        nlp.get_pipe(name).learn_rate_factor = 1.0  # the rate of these tests suits heads that are trained alone
    losses = learn(nlp, exclude=["transformer"], annotates=["transformer"])
    assert not changed(before, network(nlp))
    for name in ("ner", "textcat"):
        assert changed(heads[name], module_of(nlp, name))
        assert losses[-1][name] < losses[0][name]


def test_a_frozen_transformer_that_does_not_annotate_is_an_error(tiny_bert):
    nlp = initialized(tiny_bert, ("ner",))
    with pytest.raises(ConfigError, match=r"no transformer component has read.*annotating_components"):
        learn(nlp, steps=1, exclude=["transformer"])


def test_a_disabled_transformer_is_an_error(tiny_bert):
    nlp = initialized(tiny_bert, ("ner",))
    nlp.disable_pipe("transformer")
    with pytest.raises(ConfigError, match="Add or enable it"):
        nlp("Anna lives in Berlin")
    assert len(nlp("")) == 0


def test_a_head_without_any_encoder_is_an_error():
    nlp = spacy.blank("en")
    nlp.add_pipe("bertft_ner", name="ner")
    with pytest.raises(ConfigError, match="needs a bertft_encoder component before it"):
        nlp.initialize(lambda: examples(nlp))


# --- what the heads read


def _docs(nlp):
    words = [LONG.split(), [], ["\n"], ["Anna", " ", "lives"], ["  "], LONG.split()[:9]]
    docs = [Doc(nlp.vocab, words=each) for each in words]
    list(nlp.get_pipe("transformer").pipe(docs))
    return docs


def test_token_vectors_are_those_of_a_listener(tiny_bert):
    nlp = initialized(tiny_bert, ("ner",), window=8, stride=6)
    docs = _docs(nlp)
    features = TransformerSource.of(listener, None).read(docs, WIDTH)
    assert features.token_counts.tolist() == [len(doc) for doc in docs]
    assert features.window_counts.tolist() == [4, 0, 1, 1, 1, 2]
    layer = trfs2arrays(registry.layers.get("reduce_mean.v1")(), 1.0)
    theirs = layer.predict([doc._.trf_data for doc in docs if len(doc)])
    np.testing.assert_allclose(token_vectors(features, "mean").numpy(), np.concatenate(theirs), atol=1e-6)


def test_document_vectors_are_means_over_the_spans(tiny_bert):
    nlp = initialized(tiny_bert, ("ner",), window=8, stride=6)
    docs = _docs(nlp)
    vectors = doc_vectors(TransformerSource.of(listener, None).read(docs, WIDTH), "cls").numpy()
    for doc, vector in zip(docs, vectors, strict=True):
        if len(doc):
            hidden = doc._.trf_data.model_output.last_hidden_state
            np.testing.assert_allclose(vector, hidden[:, 0].mean(axis=0), atol=1e-6)
        else:
            assert not vector.any()


def test_the_gradient_that_is_sent_is_that_of_a_listener(tiny_bert):
    nlp = initialized(tiny_bert, ("ner",), window=8, stride=6)
    docs = _docs(nlp)
    datas = [doc._.trf_data for doc in docs]
    wanted_vectors, backprop = trfs2arrays(registry.layers.get("reduce_mean.v1")(), 1.0)(datas, is_train=True)
    rng = np.random.default_rng(0)
    gradient = [rng.normal(size=(len(doc), WIDTH)).astype("f") for doc in docs]
    wanted = backprop([each.copy() for each in gradient])
    assert len(wanted_vectors) == len(docs)
    source, sent = TransformerSource.of(listener, None), []
    source.node.receive(source.node.get_batch_id(docs), datas, sent.extend)
    features, send = source.learn(docs, WIDTH)
    token_vectors(features, "mean").backward(torch.from_numpy(np.concatenate(gradient)))
    send()
    assert len(sent) == len(wanted)
    for ours, theirs in zip(sent, wanted, strict=True):
        assert list(ours.model_output) == ["last_hidden_state"]
        np.testing.assert_allclose(
            ours.model_output.last_hidden_state, theirs.model_output.last_hidden_state, atol=1e-5
        )


TEXTS = ["Anna lives in Berlin", "Bob Stone, of Rome!", "unbelievable", "été 東京 Мама \u200b", "Anna\n lives  in Oslo"]


@pytest.mark.parametrize("family", ["bert-uncased", "bert-cased", "roberta", "distilbert", "electra"])
def test_short_texts_get_what_our_own_encoder_gives_them(tiny_encoder, family):
    folder = tiny_encoder(family)
    ours = spacy.blank("en")
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(folder), "device": "cpu"}
    ours.add_pipe("bertft_encoder", name="encoder", config={"model": model})
    for name in OURS:
        add(ours, name)
    start(ours)
    learn(ours, steps=60, exclude=["encoder"], annotates=["encoder"])
    theirs = initialized(folder, OURS)
    for name in OURS:
        theirs.get_pipe(name).from_bytes(ours.get_pipe(name).to_bytes())
    for text in TEXTS:
        one, other = ours(text), theirs(text)
        assert [(ent.text, ent.label_) for ent in one.ents] == [(ent.text, ent.label_) for ent in other.ents]
        assert one.cats == pytest.approx(other.cats, abs=1e-4)
        for name in OURS:
            logits = ours.get_pipe(name).predict([ours.get_pipe("encoder")(ours.make_doc(text))]).logits
            np.testing.assert_allclose(logits, theirs.get_pipe(name).predict([other]).logits, rtol=0, atol=1e-4)
    assert any(ours(text).ents for text in TEXTS)


def test_long_docs_in_overlapping_spans_are_learned(tiny_bert):
    nlp = start(blank(tiny_bert, ("ner", "textcat", "tagger"), window=8, stride=6))
    words = LONG.split()
    entities = ["O"] * len(words)
    for place, tag in {0: "U-PERSON", 3: "U-CITY", 5: "B-PERSON", 6: "L-PERSON", 9: "U-CITY"}.items():
        entities[place] = tag
    gold = {"words": words, "entities": entities, "cats": {"home": 1.0, "work": 0.0}, "tags": ["NNP"] * len(words)}

    def egs(nlp):
        return [Example.from_dict(Doc(nlp.vocab, words=words), gold), Example(Doc(nlp.vocab), Doc(nlp.vocab))]

    learn(nlp, steps=120, egs=egs)
    doc = nlp(Doc(nlp.vocab, words=words))
    assert [ent.text for ent in doc.ents] == ["Anna", "Berlin", "Bob Stone", "Rome"]
    assert doc.cats["home"] > 0.9


def test_empty_docs_and_white_space_go_through(tiny_bert):
    nlp = initialized(tiny_bert, ("ner", "textcat", "multilabel"))
    for text in ("", " ", "\n\t", " Anna ", "\u200b"):
        doc = nlp(text)
        assert doc.text == text
        assert set(doc.cats) == {"home", "work"}
    texts = ["", "Anna", " ", ""]
    assert [doc.text for doc in nlp.pipe(texts)] == texts
    before = state(network(nlp))
    blank_docs = [Example(Doc(nlp.vocab), Doc(nlp.vocab))] * 2
    nlp.update(blank_docs, sgd=nlp._optimizer)
    assert not changed(before, network(nlp))
    assert learn(nlp, steps=1)[0]["ner"] > 0


def test_a_batch_gives_what_single_docs_give(tiny_bert):
    nlp = initialized(tiny_bert, ("ner", "textcat"), window=8, stride=6)
    learn(nlp)
    texts = [LONG, *TEXTS, "", LONG[:40]]
    for doc, text in zip(nlp.pipe(texts, batch_size=3), texts, strict=True):
        ents, cats = annotations(nlp(text))
        found_ents, found_cats = annotations(doc)
        assert [ent[:3] for ent in found_ents] == [ent[:3] for ent in ents]
        assert found_cats == pytest.approx(cats, abs=1e-4)


# --- saved, and in other processes


def test_a_saved_pipeline_says_the_same(tiny_bert, tmp_path):
    nlp = initialized(tiny_bert, ("ner", "tagger", "textcat"))
    learn(nlp)
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    twin = blank(tiny_bert, ("ner", "tagger", "textcat")).from_bytes(nlp.to_bytes())
    assert loaded.get_pipe("transformer").listening_components == ["ner", "tagger", "textcat"]
    for text in TEXTS:
        said = annotations(nlp(text))
        assert annotations(loaded(text)) == said
        assert annotations(twin(text)) == said


def test_a_loaded_pipeline_trains_on(tiny_bert, tmp_path):
    nlp = initialized(tiny_bert, ("ner", "textcat"))
    learn(nlp, steps=3)
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    before = state(network(loaded))
    loaded.resume_training().learn_rate = 3e-3
    losses = learn(loaded)
    assert changed(before, network(loaded))
    assert losses[-1]["ner"] < 0.5 * losses[0]["ner"]


def test_two_worker_processes_say_the_same(tiny_bert):
    nlp = initialized(tiny_bert, ("ner", "textcat"))
    learn(nlp)
    texts = [*TEXTS, LONG, "", " "] * 2
    found = [annotations(doc) for doc in nlp.pipe(texts, n_process=2, batch_size=4)]
    for (ents, cats), text in zip(found, texts, strict=True):
        said = annotations(nlp(text))
        assert [ent[:3] for ent in ents] == [ent[:3] for ent in said[0]]
        assert cats == pytest.approx(said[1], abs=1e-4)


# --- by `spacy train`


def _train(nlp, folder, components=None, **training):
    """Run `spacy train` with the pipeline's config, in which blocks of components may be others."""
    DocBin(docs=[eg.reference for eg in examples(nlp)] * 12).to_disk(folder / "gold.spacy")
    config = nlp.config.copy()
    config["components"].update(components or {})
    config["paths"].update(train=str(folder / "gold.spacy"), dev=str(folder / "gold.spacy"))
    config["training"].update(max_steps=75, eval_frequency=25, **training)
    config["training"]["optimizer"]["learn_rate"] = 3e-3
    config["training"]["logger"] = {"@loggers": "spacy.ConsoleLogger.v1"}
    config.to_disk(folder / "config.cfg")
    train(folder / "config.cfg", folder / "out")
    return spacy.load(folder / "out" / "model-last")


@pytest.mark.parametrize("accumulate", [1, 3])
def test_spacy_train_trains_heads_and_transformer(tiny_bert, tmp_path, accumulate, capsys):
    nlp = _train(blank(tiny_bert, ("ner", "tagger", "textcat")), tmp_path, accumulate_gradient=accumulate)
    fresh = initialized(tiny_bert, ("ner",))
    assert changed(state(network(fresh)), network(nlp))
    assert nlp.evaluate(examples(nlp))["ents_f"] > 0.9
    assert "LOSS NER" in capsys.readouterr().out


def test_spacy_train_keeps_a_frozen_transformer(tiny_bert, tmp_path, capsys):
    base = initialized(tiny_bert, ("tagger",))
    base.to_disk(tmp_path / "base")
    nlp = blank(tiny_bert, ("ner", "textcat"))
    source = {"transformer": {"source": str(tmp_path / "base")}}
    frozen = _train(nlp, tmp_path, source, frozen_components=["transformer"], annotating_components=["transformer"])
    assert not changed(state(network(base)), network(frozen))
    assert frozen.evaluate(examples(frozen))["ents_f"] > 0.5
    assert "LOSS NER" in capsys.readouterr().out


# --- beside an encoder of ours


def _both(encoder, *, first, ner=None, textcat=None):
    nlp = blank(encoder, ())
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(encoder), "device": "cpu"}
    where = {"before": "transformer"} if first == "encoder" else {}
    nlp.add_pipe("bertft_encoder", name="encoder", config={"model": model}, **where)
    add(nlp, "tagger")
    add(nlp, "ner", encoder=ner)
    add(nlp, "textcat", encoder=textcat)
    return start(nlp)


def test_heads_that_name_no_encoder_read_ours(tiny_bert):
    nlp = _both(tiny_bert, first="transformer")
    assert nlp.get_pipe("transformer").listening_components == ["tagger"]
    assert nlp.get_pipe("encoder").listening_components == ["ner", "textcat"]
    before = state(network(nlp)), state(nlp.get_pipe("encoder").encoder)
    losses = learn(nlp)
    assert changed(before[0], network(nlp))
    assert changed(before[1], nlp.get_pipe("encoder").encoder)
    assert all(losses[-1][name] < 0.5 * losses[0][name] for name in ("tagger", "ner", "textcat"))


def test_a_transformer_behind_our_encoder_trains_by_its_own_listeners(tiny_bert, tmp_path):
    nlp = _both(tiny_bert, first="encoder")
    assert nlp.get_pipe("transformer").listening_components == ["tagger"]
    before = state(network(nlp))
    learn(nlp)
    assert changed(before, network(nlp))
    nlp.to_disk(tmp_path)
    assert spacy.load(tmp_path).get_pipe("transformer").listening_components == ["tagger"]


@pytest.mark.parametrize("first", ["encoder", "transformer"])
def test_heads_read_the_one_that_they_name(tiny_bert, first, tmp_path):
    nlp = _both(tiny_bert, first=first, ner="transformer", textcat="encoder")
    assert nlp.get_pipe("transformer").listening_components == ["tagger", "ner"]
    assert nlp.get_pipe("encoder").listening_components == ["textcat"]
    before = state(network(nlp)), state(nlp.get_pipe("encoder").encoder)
    losses = learn(nlp)
    assert changed(before[0], network(nlp))
    assert changed(before[1], nlp.get_pipe("encoder").encoder)
    assert all(losses[-1][name] < 0.5 * losses[0][name] for name in ("tagger", "ner", "textcat"))
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    for text in TEXTS:
        assert annotations(loaded(text)) == annotations(nlp(text))


def test_a_head_that_names_a_transformer_which_is_not_there_is_an_error(tiny_bert):
    nlp = blank(tiny_bert, ("ner",), config={"ner": {"encoder": "other"}})
    with pytest.raises(ConfigError, match="needs an encoder named 'other' before it"):
        start(nlp)


def test_a_head_reads_the_transformer_of_another_name(tiny_bert):
    nlp = start(blank(tiny_bert, ("ner", "textcat"), transformer="trf", config={"ner": {"encoder": "trf"}}))
    losses = learn(nlp)
    assert nlp.get_pipe("trf").listening_components == ["ner", "textcat"]
    assert losses[-1]["ner"] < 0.5 * losses[0]["ner"]


# --- what it can't do


@pytest.mark.parametrize("factory", ["bertft_pair", "bertft_qa"])
def test_heads_of_two_segments_are_refused(tiny_bert, factory):
    nlp = blank(tiny_bert, ())
    nlp.add_pipe(factory, name="head")
    with pytest.raises(BertftError, match=r"'head' reads pairs of texts.*bertft_encoder"):
        start(nlp)
