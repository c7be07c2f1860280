"""The head for pairs of texts."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import spacy
import torch
from pipelines import blank, module_of, output_of
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Corpus, Example
from spacy.training.initialize import init_nlp
from spacy.util import load_config, registry, resolve_dot_names

from spacy_bertft import pair_doc
from spacy_bertft.errors import ConfigError, DataError

pytestmark = pytest.mark.touches_transformers

ROOT = Path(__file__).parents[2]
# A sentence and a question about it, in the one order or the other.
TEXTS = [
    ("Anna lives in Berlin.", "Where does Anna live?"),
    ("Bob Stone went to work in Rome yesterday.", "Where did Bob work?"),
    ("I met Clara in the office.", "Who was in the office?"),
]
PAIRS = [(*pair, "asks") for pair in TEXTS] + [(*reversed(pair), "answers") for pair in TEXTS]
ENTITIES = {"Anna": "PERSON", "Bob Stone": "PERSON", "Clara": "PERSON", "Berlin": "CITY", "Rome": "CITY"}


def configured(folder, **config):
    nlp = blank(folder, {})
    nlp.add_pipe("bertft_pair", name="pair", config=config)
    return nlp


def docs_of(nlp, pairs=PAIRS):
    return [pair_doc(nlp, first, second) for first, second, _ in pairs]


def example(nlp, first, second, label, entities=False):
    reference = pair_doc(nlp, first, second)
    reference.cats = {name: float(name == label) for name in ("answers", "asks")}
    if entities:
        found = ((reference.text.find(name), name) for name in ENTITIES)
        reference.ents = [
            reference.char_span(start, start + len(name), label=ENTITIES[name]) for start, name in found if start >= 0
        ]
    return Example(pair_doc(nlp, first, second), reference)


def examples(nlp, **options):
    return [example(nlp, *pair, **options) for pair in PAIRS]


def learn(nlp, steps=60, **options):
    torch.manual_seed(0)
    optimizer = nlp.initialize(lambda: examples(nlp, **options))
    optimizer.learn_rate = 3e-3
    for _ in range(steps):
        nlp.update(examples(nlp, **options), sgd=optimizer)
    return nlp


@pytest.fixture(scope="module")
def saved(tiny_bert):
    return learn(configured(tiny_bert)).to_bytes()


@pytest.fixture
def nlp(tiny_bert, saved):
    return configured(tiny_bert).from_bytes(saved)


def best(doc):
    return max(doc.cats, key=doc.cats.get)


def rounded(doc):
    return {label: round(score, 5) for label, score in doc.cats.items()}


# --- the whole


def test_pairs_are_learned(nlp):
    for (_, _, label), doc in zip(PAIRS, nlp.pipe(docs_of(nlp)), strict=True):
        assert best(doc) == label
        assert sum(doc.cats.values()) == pytest.approx(1.0)
    assert nlp.evaluate(examples(nlp))["cats_score"] == 1.0


def test_pairs_are_learned_from_the_mean_of_their_subwords(tiny_bert):
    nlp = learn(configured(tiny_bert, pooling="mean"))
    assert nlp.evaluate(examples(nlp))["cats_score"] == 1.0


def test_order_matters(nlp):
    (given, swapped) = docs_of(nlp, PAIRS[:1] * 2)
    swapped.spans["segments"] = list(reversed(list(swapped.spans["segments"])))
    assert best(nlp(given)) == "asks"
    assert best(nlp(swapped)) == "answers"  # of the very same text


def test_a_long_pair_is_the_mean_of_its_windows(nlp):
    doc = pair_doc(nlp, PAIRS[0][0], "word " * 200)
    features = nlp.get_pipe("encoder").features([doc])
    assert features.window_counts[0] > 2
    module = module_of(nlp, "pair").eval()
    mean = features.hidden[features.cls_rows].mean(dim=0)
    logits = output_of(nlp.get_pipe("pair"), [doc]).logits
    torch.testing.assert_close(logits[0], module.output(torch.tanh(module.dense(mean))))


def test_the_temperature_divides_the_logits(tiny_bert, saved):
    plain, cooled = (configured(tiny_bert, temperature=t).from_bytes(saved) for t in (1.0, 4.0))
    logits = output_of(plain.get_pipe("pair"), docs_of(plain)).logits
    expected = (logits / 4).softmax(dim=1)
    found = [list(doc.cats.values()) for doc in cooled.pipe(docs_of(cooled))]
    torch.testing.assert_close(torch.tensor(found), expected)
    assert [best(doc) for doc in cooled.pipe(docs_of(cooled))] == [label for *_, label in PAIRS]


def test_the_positive_label_decides_the_score(tiny_bert):
    nlp = learn(configured(tiny_bert, positive_label="asks"), steps=1)
    assert nlp.evaluate(examples(nlp))["cats_score_desc"] == "F (asks)"


# --- in spaCy


def test_it_survives_saving(nlp, tmp_path):
    expected = [rounded(doc) for doc in nlp.pipe(docs_of(nlp))]
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    assert [rounded(doc) for doc in again.pipe(docs_of(again))] == expected
    pickled = pickle.loads(pickle.dumps(nlp))
    assert [rounded(doc) for doc in pickled.pipe(docs_of(pickled))] == expected


def test_several_processes_give_the_same(nlp):
    one = [rounded(doc) for doc in nlp.pipe(docs_of(nlp))]
    assert [rounded(doc) for doc in nlp.pipe(docs_of(nlp), n_process=2, batch_size=2)] == one


def test_texts_with_a_tab_are_pairs_for_a_pipeline_with_the_tokenizer(tiny_bert, saved, tmp_path):
    config = {"nlp": {"tokenizer": {"@tokenizers": "spacy-bertft.PairTokenizer.v1"}}}
    nlp = configured(tiny_bert).from_bytes(saved)
    nlp.tokenizer = registry.resolve(config)["nlp"]["tokenizer"](nlp)
    texts = [f"{first}\t{second}" for first, second, _ in PAIRS]
    assert [rounded(doc) for doc in nlp.pipe(texts)] == [rounded(doc) for doc in nlp.pipe(docs_of(nlp))]
    DocBin(docs=[eg.reference for eg in examples(nlp)]).to_disk(tmp_path / "dev.spacy")
    assert nlp.evaluate(list(Corpus(tmp_path / "dev.spacy")(nlp)))["cats_score"] == 1.0


@pytest.mark.slow
def test_entities_and_a_category_of_the_same_pairs(tiny_bert, tmp_path):
    nlp = blank(tiny_bert, {"ner": "bertft_ner", "pair": "bertft_pair"})
    learn(nlp, entities=True, steps=80)
    scores = nlp.evaluate(examples(nlp, entities=True))
    assert (scores["ents_f"], scores["cats_score"]) == (1.0, 1.0)
    nlp.to_disk(tmp_path)
    doc = spacy.load(tmp_path)(pair_doc(nlp, *PAIRS[1][:2]))
    assert [(ent.text, ent.label_) for ent in doc.ents] == [("Bob Stone", "PERSON"), ("Rome", "CITY")]
    assert best(doc) == PAIRS[1][2]


@pytest.mark.parametrize("both", [False, True])
def test_the_config_trains_on_pairs_in_one_order_or_both(tiny_bert, tmp_path, both):
    rows = [("first", "second", "label"), *PAIRS[:3], ("Paris and Oslo are far.", "A long meeting.", "neither")]
    (tmp_path / "train.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8")
    overrides = {f"paths.{split}": str(tmp_path / "train.tsv") for split in ("train", "dev")}
    overrides |= {"components.encoder.model.name": str(tiny_bert), "components.encoder.model.device": "cpu"}
    if both:
        overrides["corpora.train.augmenter"] = {"@augmenters": "spacy-bertft.both_orders.v1"}
    config = load_config(ROOT / "configs" / "pair.cfg", overrides=overrides)
    nlp: Language = init_nlp(config)
    assert nlp.get_pipe("pair").labels == ("asks", "neither")
    train, dev = resolve_dot_names(nlp.config.interpolate(), ["corpora.train", "corpora.dev"])
    found = [tuple(span.text for span in eg.predicted.spans["segments"]) for eg in train(nlp)]
    given = [row[:2] for row in rows[1:]]
    assert found == ([one for pair in given for one in (pair, pair[::-1])] if both else given)
    assert len(list(dev(nlp))) == 4
    losses = nlp.update(list(train(nlp)), sgd=nlp.create_optimizer())
    assert losses["pair"] > 0


# --- bad input

WITHOUT = r"'pair' got a Doc without doc\.spans\['segments'\]: 'Anna.*pair_doc\(\).*PairTokenizer"


def test_a_text_without_segments_is_an_error(nlp):
    with pytest.raises(DataError, match=WITHOUT):
        nlp("Anna lives in Berlin.")
    with pytest.raises(DataError, match=WITHOUT):
        nlp(f"{PAIRS[0][0]}\t{PAIRS[0][1]}")  # with spaCy's own tokenizer
    with pytest.raises(DataError, match=WITHOUT):
        list(nlp.pipe([*docs_of(nlp), nlp.make_doc("Anna")]))


def test_an_update_without_segments_is_an_error(nlp):
    bare = Example.from_dict(nlp.make_doc("Anna lives in Berlin."), {"cats": {"asks": 1.0}})
    with pytest.raises(DataError, match=WITHOUT):
        nlp.update([*examples(nlp), bare], sgd=False)


def test_examples_without_segments_are_an_error(tiny_bert):
    nlp = configured(tiny_bert)
    bare = Example.from_dict(nlp.make_doc("Anna lives in Berlin."), {"cats": {"asks": 1.0, "answers": 0.0}})
    with pytest.raises(DataError, match=WITHOUT):
        nlp.initialize(lambda: [*examples(nlp), bare])


def test_one_label_alone_is_an_error(tiny_bert):
    nlp = configured(tiny_bert)
    doc = pair_doc(nlp, *TEXTS[0])
    doc.cats = {"asks": 1.0}
    with pytest.raises(ConfigError, match=r"at least two labels.*Found 1: asks"):
        nlp.initialize(lambda: [Example(pair_doc(nlp, *TEXTS[0]), doc)])


def test_a_category_that_was_not_learned_is_an_error(nlp):
    doc = pair_doc(nlp, *TEXTS[0])
    doc.cats = {"new": 1.0}
    with pytest.raises(DataError, match=r"gold category is 'new'.*answers, asks"):
        nlp.update([Example(pair_doc(nlp, *TEXTS[0]), doc)], sgd=False)


def test_relations_can_be_weighted_by_their_counts(tiny_bert):
    """Three pairs ask, one answers: balanced, both count the same."""
    nlp = configured(tiny_bert, loss={"class_weights": "balanced"})
    egs = [example(nlp, *pair) for pair in PAIRS[:4]]
    nlp.initialize(lambda: egs)
    pipe = nlp.get_pipe("pair")
    assert pipe.cfg["statistics"]["counts"] == {"answers": 1.0, "asks": 3.0}
    output = output_of(pipe, [eg.predicted for eg in egs])
    of_each = torch.nn.functional.cross_entropy(output.logits, torch.tensor([1, 1, 1, 0]), reduction="none")
    expected = (of_each * torch.tensor([4 / 6, 4 / 6, 4 / 6, 2.0])).sum()
    torch.testing.assert_close(pipe.loss(output.logits, pipe.task.targets(output, egs)), expected)
