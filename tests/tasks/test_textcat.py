"""The category heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import spacy
import torch
from pipelines import TEXTS, blank, examples, initialized, loss_of, module_of, output_of, trained
from spacy.language import Language
from spacy.training import Example
from spacy.util import load_config

import spacy_bertft
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.learning.losses import CrossEntropy

pytestmark = pytest.mark.touches_transformers

TEXTCAT = {"textcat": "bertft_textcat"}
MULTILABEL = {"textcat": "bertft_textcat_multilabel"}
BALANCED = {"@losses": "spacy-bertft.CrossEntropy.v1", "class_weights": "balanced"}


def _configured(folder, factory="bertft_textcat", **config):
    nlp = blank(folder, {})
    nlp.add_pipe(factory, name="textcat", config=config)
    return nlp


def _example(nlp, cats, text="A text"):
    return Example.from_dict(nlp.make_doc(text), {"cats": cats})


def _loss(nlp, egs):
    pipe = nlp.get_pipe("textcat")
    return output_of(pipe, [eg.predicted for eg in egs]).logits, loss_of(pipe, egs)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_exclusive_categories_are_learned_and_sum_to_one(tiny_bert, pooling):
    nlp = trained(tiny_bert, TEXTCAT) if pooling == "cls" else _learn(_configured(tiny_bert, pooling=pooling))
    for eg, doc in zip(examples(nlp), nlp.pipe(TEXTS), strict=True):
        assert max(doc.cats, key=doc.cats.get) == max(eg.reference.cats, key=eg.reference.cats.get)
        assert sum(doc.cats.values()) == pytest.approx(1.0)
    assert nlp.evaluate(examples(nlp))["cats_score"] == 1.0


def _learn(nlp, egs=examples, steps=60):
    torch.manual_seed(0)
    nlp.initialize(lambda: egs(nlp))
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 3e-3
    for _ in range(steps):
        nlp.update(egs(nlp), sgd=optimizer)
    return nlp


def _tagged(nlp):
    gold = [("My home in Rome", {"home": 1.0, "city": 1.0}), ("Rome", {"home": 0.0, "city": 1.0})]
    gold += [("Home and garden", {"home": 1.0, "city": 0.0}), ("Nothing", {"home": 0.0, "city": 0.0})]
    return [_example(nlp, cats, text) for text, cats in gold]


def test_several_categories_or_none_can_hold(tiny_bert):
    nlp = _learn(_configured(tiny_bert, "bertft_textcat_multilabel"), _tagged)
    for eg in _tagged(nlp):
        assert {label: float(score > 0.5) for label, score in nlp(eg.text).cats.items()} == eg.reference.cats
    assert nlp.evaluate(_tagged(nlp))["cats_macro_f"] == 1.0


def test_a_long_text_is_the_mean_of_its_windows(tiny_bert):
    nlp = initialized(tiny_bert, TEXTCAT)
    doc = nlp.make_doc("word " * 300)
    features = nlp.get_pipe("encoder").features([doc])
    assert features.window_counts[0] > 2
    module = module_of(nlp, "textcat").eval()
    mean = features.hidden[features.cls_rows].mean(dim=0)
    logits = output_of(nlp.get_pipe("textcat"), [doc]).logits
    torch.testing.assert_close(logits[0], module.output(torch.tanh(module.dense(mean))))


def test_the_dense_layer_starts_as_the_pretrained_pooler(tiny_bert):
    nlp = initialized(tiny_bert, TEXTCAT)
    pooler = nlp.get_pipe("encoder").encoder.model.pooler.dense
    assert torch.equal(module_of(nlp, "textcat").dense.weight, pooler.weight)


def test_missing_labels_are_left_out_of_the_loss(tiny_bert):
    nlp = _configured(tiny_bert, "bertft_textcat_multilabel")
    nlp.initialize(lambda: _tagged(nlp))
    logits, loss = _loss(nlp, [_example(nlp, {"home": 1.0}), _example(nlp, {})])
    home = nlp.get_pipe("textcat").labels.index("home")
    expected = torch.nn.functional.softplus(-logits[0, home]) / 2
    torch.testing.assert_close(loss, expected)


def test_exclusive_labels_that_are_not_mentioned_are_false(tiny_bert):
    nlp = initialized(tiny_bert, TEXTCAT)
    full = _loss(nlp, [_example(nlp, {"home": 1.0, "work": 0.0})])[1]
    short = _loss(nlp, [_example(nlp, {"home": 1.0}), _example(nlp, {})])[1]
    torch.testing.assert_close(full, short)


def test_two_exclusive_categories_in_one_text_are_an_error(tiny_bert):
    nlp = initialized(tiny_bert, TEXTCAT)
    with pytest.raises(DataError, match=r"several exclusive categories.*bertft_textcat_multilabel"):
        nlp.update([_example(nlp, {"home": 1.0, "work": 1.0})], sgd=False)


def test_one_exclusive_label_alone_is_an_error(tiny_bert):
    nlp = _configured(tiny_bert)
    with pytest.raises(ConfigError, match=r"at least two labels.*Found 1: home"):
        nlp.initialize(lambda: [_example(nlp, {"home": 1.0})])


def test_the_positive_label_decides_the_score(tiny_bert):
    nlp = _learn(_configured(tiny_bert, positive_label="work"))
    scores = nlp.evaluate(examples(nlp))
    assert scores["cats_score_desc"] == "F (work)"


def test_a_positive_label_that_is_not_there_is_an_error(tiny_bert):
    nlp = _configured(tiny_bert, positive_label="spam")
    with pytest.raises(ConfigError, match=r"positive_label is 'spam'.*Found 2: home, work"):
        nlp.initialize(lambda: examples(nlp))


def test_the_threshold_reaches_the_scorer(tiny_bert):
    strict = _learn(_configured(tiny_bert, "bertft_textcat_multilabel", threshold=1.0), _tagged, steps=5)
    assert strict.evaluate(_tagged(strict))["cats_micro_r"] == 0.0
    lax = _learn(_configured(tiny_bert, "bertft_textcat_multilabel", threshold=0.0), _tagged, steps=5)
    assert lax.evaluate(_tagged(lax))["cats_micro_r"] == 1.0


def test_categories_of_other_components_stay(tiny_bert):
    nlp = trained(tiny_bert, TEXTCAT, steps=2)
    doc = nlp.make_doc(TEXTS[0])
    doc.cats = {"other": 1.0}
    assert set(nlp(doc).cats) == {"other", "home", "work"}


@pytest.mark.parametrize("factory", ["bertft_textcat", "bertft_textcat_multilabel"])
@pytest.mark.parametrize("text", ["", "  \n", "\x00"])
def test_texts_without_words_get_categories_too(tiny_bert, factory, text):
    nlp = _learn(_configured(tiny_bert, factory), steps=1)
    assert set(nlp(text).cats) == {"home", "work"}


# --- what the head knows of the training data


def _partly(nlp):
    """Eight texts: home holds in two of six, work in one of eight; two texts say nothing of home."""
    golds = [{"home": 1.0, "work": 0.0}, {"home": 1.0, "work": 1.0}, *[{"home": 0.0, "work": 0.0}] * 4]
    return [_example(nlp, cats) for cats in [*golds, *[{"work": 0.0}] * 2]]


def test_labels_are_counted_among_the_texts_annotated_for_them(tiny_bert):
    nlp = _configured(tiny_bert, "bertft_textcat_multilabel")
    nlp.initialize(lambda: _partly(nlp))
    expected = {"counts": {"home": 2.0, "work": 1.0}, "annotated": {"home": 6, "work": 8}}
    assert nlp.get_pipe("textcat").cfg["statistics"] == expected


def test_independent_labels_start_at_their_shares(tiny_bert):
    """Lin et al., 2017, section 4.1: the bias is the log-odds, so that rare labels don't start at one half."""
    nlp = _configured(tiny_bert, "bertft_textcat_multilabel")
    nlp.initialize(lambda: _partly(nlp))
    bias = module_of(nlp, "textcat").output.bias
    torch.testing.assert_close(bias.detach().sigmoid(), torch.tensor([2 / 6, 1 / 8]))


def test_exclusive_categories_start_at_their_shares(tiny_bert):
    nlp = _configured(tiny_bert)
    nlp.initialize(lambda: [_example(nlp, {label: 1.0}) for label in ("home", "home", "home", "work")])
    bias = module_of(nlp, "textcat").output.bias.detach()
    torch.testing.assert_close(bias.softmax(dim=0), torch.tensor([0.75, 0.25]))
    assert bias.sum().item() == pytest.approx(0.0, abs=1e-6)


def test_labels_that_never_or_always_hold_have_finite_biases(tiny_bert):
    nlp = _configured(tiny_bert, "bertft_textcat_multilabel")
    labels = ["never", "always", "unseen"]
    nlp.get_pipe("textcat").initialize(
        lambda: [_example(nlp, {"never": 0.0, "always": 1.0})] * 10, nlp=nlp, labels=labels
    )
    bias = module_of(nlp, "textcat").output.bias.detach()
    torch.testing.assert_close(bias.sigmoid(), torch.tensor([0.05, 0.95, 0.5]))


def test_a_label_added_later_starts_as_the_rarest_and_the_others_stay(tiny_bert):
    nlp = _configured(tiny_bert, "bertft_textcat_multilabel")
    nlp.initialize(lambda: _partly(nlp))
    before = module_of(nlp, "textcat").output.bias.detach().clone()
    nlp.get_pipe("textcat").add_label("new")
    assert module_of(nlp, "textcat").output.bias.tolist() == [*before.tolist(), before.min().item()]


@pytest.mark.parametrize("how", ["disk", "bytes"])
def test_the_counts_are_saved_and_weigh_the_classes_after_loading(tiny_bert, how, tmp_path):
    nlp = _configured(tiny_bert, "bertft_textcat_multilabel", loss=BALANCED)
    nlp.initialize(lambda: _partly(nlp))
    if how == "disk":
        nlp.to_disk(tmp_path)
        loaded = spacy.load(tmp_path)
    else:
        loaded = _configured(tiny_bert, "bertft_textcat_multilabel", loss=BALANCED).from_bytes(nlp.to_bytes())
    assert loaded.get_pipe("textcat").cfg["statistics"] == nlp.get_pipe("textcat").cfg["statistics"]
    torch.testing.assert_close(_loss(loaded, _partly(loaded))[1], _loss(nlp, _partly(nlp))[1])


def test_texts_of_the_unknown_category_count_for_all_in_equal_parts(tiny_bert):
    nlp = _configured(tiny_bert, unknown_label="none", loss=BALANCED)
    golds = [{"home": 1.0}] * 3 + [{"work": 1.0}] + [{"none": 1.0}] * 4
    nlp.initialize(lambda: [_example(nlp, cats) for cats in golds])
    pipe = nlp.get_pipe("textcat")
    egs = [_example(nlp, cats) for cats in golds]
    targets = pipe.task.targets(pipe.predict([eg.predicted for eg in egs]), egs)
    assert targets.classes.counts == tuple(targets.values.sum(dim=0).tolist()) == (5.0, 3.0)


def test_weights_by_counts_need_a_head_that_has_them(tiny_bert):
    """Heads that were saved before there were counts load and predict, and learn with other losses."""
    nlp = _configured(tiny_bert, loss=BALANCED)
    nlp.initialize(lambda: examples(nlp))
    nlp.get_pipe("textcat").cfg["statistics"] = {}
    nlp("A text")
    with pytest.raises(ConfigError, match=r"knows none: .*earlier version.*Initialise it anew"):
        nlp.update(examples(nlp), sgd=False)
    nlp.get_pipe("textcat").loss = CrossEntropy()
    assert nlp.update(examples(nlp), sgd=False)["textcat"] > 0


# --- the score of several categories


def test_a_collapse_shows_in_the_score_that_picks_the_best_model(tiny_bert):
    """A head that ranks texts rightly, but finds nothing: its AUC is 1, its F nought."""
    nlp = _learn(_configured(tiny_bert, "bertft_textcat_multilabel"), _tagged)
    with torch.no_grad():
        module_of(nlp, "textcat").output.bias.sub_(50.0)
    scores = nlp.evaluate(_tagged(nlp))
    assert scores["cats_score"] > 0.9
    weights = nlp.get_pipe_meta("textcat").default_score_weights
    assert sum(weight * scores[name] for name, weight in weights.items() if weight) == 0.0
    assert {name: weight for name, weight in weights.items() if weight is not None} == {
        "cats_micro_f": 0.5,
        "cats_macro_f": 0.5,
        "cats_macro_auc": 0.0,
    }


def test_the_config_picks_by_the_same_score():
    config = load_config(Path(spacy_bertft.__file__).parents[1] / "configs/textcat_multilabel.cfg")
    weights = Language.get_factory_meta("bertft_textcat_multilabel").default_score_weights
    shown = {name: weight for name, weight in weights.items() if weight is not None}
    assert config["training"]["score_weights"] == shown
