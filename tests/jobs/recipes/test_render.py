from __future__ import annotations

import pytest
from thinc.api import Config

from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.recipes.choices import Choices, EncoderFacts
from spacy_bertft.jobs.recipes.render import render, value_text
from spacy_bertft.jobs.recipes.tasks import TASKS


def config(task="ner", **given):
    return Config().from_str(render(TASKS[task], file="a.cfg", **given), interpolate=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (5e-5, "5e-5"),
        (0.0005, "5e-4"),
        (0.001, "1e-3"),
        (0.05, "0.05"),
        (1.0, "1.0"),
        (0.0, "0.0"),
        ((1, 2), "[1,2]"),
        ('a "b" é', '"a \\"b\\" é"'),
    ],
)
def test_values_are_written_as_in_configs(value, text):
    assert value_text(value) == text


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "chosen",
    [
        Choices(),
        Choices(3e-4, 7, 32, 600, 33, 99, 256, "mean", "effective", "none", "entities", (1, 5)),
    ],
    ids=["default", "all others"],
)
def test_what_was_chosen_is_in_the_config(task, chosen):
    made = config(
        task, chosen=chosen, encoder=EncoderFacts("folder/of encoder", "v2"), train="a b.spacy", dev="ü.spacy"
    )
    training, model = made["training"], made["components"]["encoder"]["model"]
    assert (training["max_epochs"], training["eval_frequency"], training["patience"]) == (
        *(chosen.epochs, chosen.eval_frequency, chosen.patience),
    )
    assert model["window"] == chosen.window
    assert made["paths"]["train"] == "a b.spacy"
    assert made["paths"]["dev"] == "ü.spacy"
    name = made["paths"]["encoder"] if chosen.by_subwords else model["name"]
    assert (name, model["revision"]) == ("folder/of encoder", "v2")
    batcher = training["batcher"]
    if chosen.by_subwords:
        assert model["name"] == batcher["tokenizer"] == "${paths.encoder}"
        assert (batcher["size"], batcher["min_texts"], batcher["max_texts"]) == (600, 16, 64)
    else:
        assert batcher["size"] == chosen.batch_size
    rate = training["optimizer"]["learn_rate"]["initial_rate"]
    assert rate * made["components"]["encoder"].get("learn_rate_factor", 1.0) == pytest.approx(chosen.rate)


def test_the_preparation_for_few_texts_is_a_block_of_its_own():
    assert config("textcat")["initialize"]["before_init"] is None
    made = config("ner+textcat", chosen=Choices(rate=1e-4, contrastive=7, contrastive_rate=3e-5, pooling="mean"))
    block = made["initialize"]["before_init"]
    assert block["@callbacks"] == "spacy-bertft.contrastive.v1"
    assert (block["steps"], block["rate"]) == (7, 3e-5)
    assert made["components"]["textcat"]["activation"] is None
    assert "activation" not in made["components"]["ner"]


def test_weights_of_classes_are_part_of_the_loss():
    assert "loss" not in config("textcat")["components"]["textcat"]
    loss = config("textcat", chosen=Choices(class_weights="effective"))["components"]["textcat"]["loss"]
    assert loss == {"@losses": "spacy-bertft.CrossEntropy.v1", "class_weights": "effective"}


def test_spancat_s_key_is_that_of_its_score():
    made = config("spancat", chosen=Choices(spans_key="skills", span_sizes=(2, 3)))
    assert made["components"]["spancat"]["spans_key"] == "skills"
    assert made["components"]["spancat"]["suggester"]["sizes"] == [2, 3]
    assert made["training"]["score_weights"] == {
        **{"spans_skills_f": 1.0, "spans_sc_f": None, "spans_sc_p": None, "spans_sc_r": None}
    }


def test_files_are_read_by_spacy_or_as_convert_reads_them():
    assert config("ner")["corpora"]["dev"]["@readers"] == "spacy.Corpus.v1"
    made = config("ner", options=Options(text_key="body", merge_sentences=3))["corpora"]
    for split in ("train", "dev"):
        assert made[split]["@readers"] == "spacy-bertft.Corpus.v1"
        assert (made[split]["text_key"], made[split]["merge_sentences"]) == ("body", 3)
        assert "label_key" not in made[split]


def test_pairs_of_other_tasks_have_the_tokenizer_that_makes_them():
    assert config("regression")["nlp"]["tokenizer"]["@tokenizers"] == "spacy.Tokenizer.v1"
    made = config("regression", in_pairs=True)
    assert made["nlp"]["tokenizer"]["@tokenizers"] == "spacy-bertft.PairTokenizer.v1"
    assert made["components"]["encoder"]["model"]["long_pairs"] == "windows"


def test_the_first_lines_show_how_to_train():
    text = render(TASKS["intents"], file="my.cfg", train="t.jsonl", dev="d.jsonl")
    assert "#   python -m spacy train my.cfg --output training\n" in text
    assert "#   bertft calibrate training/model-best d.jsonl\n" in text
    assert "--paths.train train.tsv --paths.dev dev.tsv --output" in render(TASKS["pair"], file="my.cfg")
    assert all(len(line) <= 120 for line in text.splitlines())
    assert "\u00a0" not in render(TASKS["regression"], file="my.cfg")
