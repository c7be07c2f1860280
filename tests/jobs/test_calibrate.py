"""`calibrate`: what it fits, what it writes, what it refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import spacy
from pipelines import ANNOTATED, blank, blank_pair, save_trained, trained
from spacy.tokens import DocBin, Span

from spacy_bertft import question_doc
from spacy_bertft.convert import convert
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.calibrate import calibrate
from spacy_bertft.jobs.evaluate import evaluate, load_pipeline, read_examples, score
from spacy_bertft.tasks.qa import AnswerTask

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

CONTEXT = "Anna lives in Berlin near the old garden. Bob Stone went to work in Rome yesterday."
OTHER = "Paris and Oslo are far from my home and garden."
QUESTIONS = [
    ("Where does Anna live?", CONTEXT, "Berlin"),
    ("Where did Bob go?", CONTEXT, "Rome"),
    ("Who is Clara?", CONTEXT, None),
    ("What is far from home?", OTHER, "Paris and Oslo"),
    ("Who lives in Paris?", OTHER, None),
]
# Held-out texts, some of which the head can't but get wrong.
KNOWN = [(text, cat) for text, _, cat in ANNOTATED] + [("Anna lives in Berlin", "work"), ("A meeting", "home")]
UNKNOWN = [(text, "none") for text in ("She sells sea shells.", "Merci beaucoup.", "A long fox", "Nothing")]
PAIRS = [
    ("Anna lives in Berlin.", "Where does Anna live?", "asks"),
    ("Where did Bob work?", "Bob went to work in Rome.", "answers"),
    ("Where is the garden?", "Nothing happened at home.", "asks"),
]


def squad(questions):
    def qa(question, context, answer):
        answers = [{"text": answer, "answer_start": context.index(answer)}] if answer else []
        return {"context": context, "qas": [{"question": question, "answers": answers}]}

    return json.dumps({"data": [{"paragraphs": [qa(*one) for one in questions]}]})


def jsonl(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def texts(*rows):
    return jsonl({"text": text, "label": label} for text, label in rows)


def table(rows):
    return "".join("\t".join(row) + "\n" for row in [("first", "second", "label"), *rows])


@pytest.fixture(scope="module")
def made(tiny_bert, tmp_path_factory):
    """A folder of pipelines, each with its data under the same name."""
    root = tmp_path_factory.mktemp("calibrate")

    def make(name, ending, content, nlp, steps=12):
        data = root / f"{name}{ending}"
        data.write_text(content, "utf-8")
        if steps is not None:
            save_trained(nlp, data, root / name, steps)

    make("qa", ".json", squad(QUESTIONS), blank_pair(tiny_bert, {"qa": "bertft_qa"}, threshold=0.999))
    make("pair", ".tsv", table(PAIRS), blank_pair(tiny_bert, {"pair": "bertft_pair"}))
    make("textcat", ".jsonl", texts(*KNOWN), blank(tiny_bert, {"textcat": "bertft_textcat"}))
    intent = blank(tiny_bert, {})
    intent.add_pipe("bertft_textcat", name="intent", config={"unknown_label": "none", "unknown_threshold": 9.0})
    make("unknown", ".jsonl", texts(*KNOWN, *UNKNOWN), intent)
    tags = jsonl({"text": text, "labels": [cat]} for text, cat in KNOWN)
    make("tags", ".jsonl", tags, blank(tiny_bert, {"tags": "bertft_textcat_multilabel"}), steps=1)
    trained(tiny_bert, {"ner": "bertft_ner"}, steps=1).to_disk(root / "ner")
    return root


SETTINGS = {
    "qa": [("qa", "threshold")],
    "pair": [("pair", "temperature")],
    "textcat": [("textcat", "temperature")],
    "unknown": [("intent", "temperature"), ("intent", "unknown_threshold")],
}
NAMES = tuple(SETTINGS)


@pytest.fixture
def copy(made, tmp_path):
    """`copy(name)`: a pipeline of one's own, and its data."""

    def fresh(name):
        folder = shutil.copytree(made / name, tmp_path / name)
        (data,) = made.glob(f"{name}.*")
        return folder, data

    return fresh


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what it fits and writes


@pytest.mark.parametrize("name", NAMES)
def test_it_changes_the_settings_in_the_config_and_nothing_else(copy, name):
    folder, data = copy(name)
    before = content(folder)
    done = calibrate(folder, data)
    after = content(folder)
    assert [(one.component, one.setting) for one in done.fitted] == SETTINGS[name]
    assert {path for path in before if before[path] != after[path]} == {"config.cfg"}
    assert before.keys() == after.keys()
    old, new = (files["config.cfg"].decode().split("\n") for files in (before, after))
    changed = [(one, other) for one, other in zip(old, new, strict=True) if one != other]
    assert {line.partition(" = ")[0] for pair in changed for line in pair} == {setting for _, setting in SETTINGS[name]}
    assert len(changed) == len(done.fitted)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_says_is_what_the_loaded_pipeline_does(copy, name):
    folder, data = copy(name)
    before = evaluate(folder, data)
    done = calibrate(folder, data)
    nlp = load_pipeline(folder)
    for one in done.fitted:
        assert nlp.config["components"][one.component][one.setting] == one.after
        assert getattr(nlp.get_pipe(one.component).task, one.setting) == one.after != one.before
    assert done.before == before
    assert done.after == evaluate(folder, data) == score(nlp, read_examples(nlp, data))


def test_a_second_time_finds_the_same(copy):
    for name in ("qa", "unknown"):
        folder, data = copy(name)
        first, second = calibrate(folder, data), calibrate(folder, data)
        assert [one.after for one in first.fitted] == [one.before for one in second.fitted]
        assert [one.after for one in first.fitted] == [one.after for one in second.fitted]


def test_the_threshold_of_answers_has_the_best_f1(copy):
    folder, data = copy("qa")
    done = calibrate(folder, data)
    found = []
    for limit in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0):
        nlp = load_pipeline(folder, {"components": {"qa": {"threshold": limit}}})
        found.append(score(nlp, read_examples(nlp, data)).overall["answer_f"])
    assert done.after.overall["answer_f"] >= max(found) > min(found)
    assert done.after.overall["answer_f"] > done.before.overall["answer_f"]


def likelihood(folder, data):
    nlp = load_pipeline(folder)
    egs = read_examples(nlp, data)
    golds = [max(eg.reference.cats, key=eg.reference.cats.get) for eg in egs]
    docs = nlp.pipe(eg.predicted for eg in egs)
    return sum(np.log(doc.cats[gold]) for doc, gold in zip(docs, golds, strict=True))


@pytest.mark.parametrize("name", ["textcat"])
def test_the_temperature_makes_the_gold_categories_likelier(copy, name):
    folder, data = copy(name)
    before = likelihood(folder, data)
    done = calibrate(folder, data)
    assert likelihood(folder, data) > before
    for key in ("cats_score", "cats_macro_f", "cats_micro_f"):  # which is best stays
        assert done.after.overall[key] == done.before.overall[key]


def test_the_unknown_threshold_balances_known_and_unknown_texts(copy):
    folder, data = copy("unknown")
    done = calibrate(folder, data)

    def value(scores):
        return scores.overall["cats_known_acc"] + scores.overall["cats_unknown_r"]

    assert value(done.before) == 100.0  # a threshold of 9: all are unknown
    assert value(done.after) > 100.0
    found = []
    for threshold in (-4, -2, -1, 0, 1, 2, 4):
        other = load_pipeline(folder, {"components": {"intent": {"unknown_threshold": threshold}}})
        found.append(value(score(other, read_examples(other, data))))
    assert value(done.after) >= max(found) - 1e-6


def test_known_texts_are_enough_without_an_unknown_category(copy, tmp_path):
    folder, _ = copy("textcat")
    data = tmp_path / "dev.jsonl"
    data.write_text(texts(*KNOWN, ("Nobody learned this", "new")), "utf-8")
    with_new = calibrate(folder, data, dry_run=True)
    data.write_text(texts(*KNOWN), "utf-8")
    assert calibrate(folder, data, dry_run=True).fitted == with_new.fitted


def test_texts_without_annotation_are_left_out(copy, tmp_path):
    folder, data = copy("unknown")
    more = tmp_path / "more.jsonl"
    more.write_text(data.read_text("utf-8") + '{"text": "no label"}\n', "utf-8")
    assert calibrate(folder, more, dry_run=True).fitted == calibrate(folder, data, dry_run=True).fitted


def test_converted_data_give_the_same(copy, tmp_path):
    for name in ("qa", "unknown"):
        folder, data = copy(name)
        convert([data], tmp_path / f"{name}.spacy")
        direct = calibrate(folder, data, dry_run=True)
        assert calibrate(folder, tmp_path / f"{name}.spacy", dry_run=True) == direct


def test_a_dry_run_changes_nothing(copy):
    for name in ("qa", "unknown"):
        folder, data = copy(name)
        before = content(folder)
        dry = calibrate(folder, data, dry_run=True)
        assert content(folder) == before
        assert dry == calibrate(folder, data)


def test_variables_of_the_config_stay(copy):
    folder, data = copy("textcat")
    path = folder / "config.cfg"
    text = path.read_text("utf-8").replace("\ntemperature = 1.0", "\ntemperature = ${system.seed}", 1)
    path.write_text(text.replace("\nseed = 0", "\nseed = 2"), "utf-8")
    (fitted,) = calibrate(folder, data).fitted
    assert fitted.before == 2.0
    assert path.read_text("utf-8") == text.replace("\nseed = 0", "\nseed = 2").replace(
        "temperature = ${system.seed}", f"temperature = {fitted.after}"
    )
    assert "seed = ${system.seed}" in text


# --- a copy


def test_a_copy_gets_the_settings_instead(copy, tmp_path):
    folder, data = copy("unknown")
    before = content(folder)
    done = calibrate(folder, data, output=tmp_path / "new" / "copy")
    assert content(folder) == before
    calibrate(folder, data)
    assert content(tmp_path / "new" / "copy") == content(folder)
    assert evaluate(tmp_path / "new" / "copy", data) == done.after


def test_a_pipeline_in_the_place_of_the_copy_is_replaced(copy):
    (folder, data), (other, _) = copy("textcat"), copy("unknown")
    calibrate(folder, data, output=other)
    assert content(other).keys() == content(folder).keys()
    assert spacy.load(other).pipe_names == ["encoder", "textcat"]


def test_the_pipeline_itself_is_no_output(copy):
    folder, data = copy("textcat")
    with pytest.raises(ConfigError, match=r"is the pipeline .* itself, or one lies in the other"):
        calibrate(folder, data, output=folder / ".." / "textcat")


def test_a_dry_run_makes_no_copy(copy, tmp_path):
    folder, data = copy("textcat")
    calibrate(folder, data, output=tmp_path / "copy", dry_run=True)
    assert not (tmp_path / "copy").exists()


def test_a_folder_that_is_no_pipeline_is_not_replaced(copy, tmp_path):
    folder, data = copy("textcat")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for output in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(ConfigError, match=r"The output .* (holds something other than a pipeline|is a file)"):
            calibrate(folder, data, output=output)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_an_output_around_the_pipeline_is_not_replaced(copy, made, tmp_path):
    outer, data = copy("textcat")
    inner = shutil.copytree(made / "textcat", outer / "inner")
    before = content(inner)
    with pytest.raises(ConfigError):
        calibrate(inner, data, output=outer)
    assert content(inner) == before


# --- several heads


@pytest.fixture(scope="module")
def two_heads(tiny_bert, tmp_path_factory):
    """Answers, and categories of the same questions, with a head for entities between them."""
    root = tmp_path_factory.mktemp("two")
    heads = {"qa": "bertft_qa", "ner": "bertft_ner", "pair": "bertft_pair"}
    nlp = blank_pair(tiny_bert, heads)
    docs = []
    for question, context, answer in QUESTIONS:
        doc = question_doc(nlp, question, context)
        start = doc.text.index(answer, len(question)) if answer else 0
        doc.spans["answers"] = [doc.char_span(start, start + len(answer), label="ANSWER")] if answer else []
        doc.cats = {"where": float(question.startswith("Where")), "other": float(not question.startswith("Where"))}
        doc.ents = [Span(doc, 0, 1, label="WORD")]
        docs.append(doc)
    docs[2].cats = {"where": 1.0, "other": 0.0}  # wrongly, so that the temperature has a place to be
    DocBin(docs=docs).to_disk(root / "dev.spacy")
    save_trained(nlp, root / "dev.spacy", root / "pipeline", steps=15)
    return root


def test_all_heads_are_fitted_at_once(two_heads, tmp_path):
    folder = shutil.copytree(two_heads / "pipeline", tmp_path / "pipeline")
    done = calibrate(folder, two_heads / "dev.spacy")
    assert [(one.component, one.setting) for one in done.fitted] == [("qa", "threshold"), ("pair", "temperature")]
    assert done.after == evaluate(folder, two_heads / "dev.spacy")


@pytest.mark.parametrize("component", ["qa", "pair"])
def test_one_head_is_fitted_if_it_is_named(two_heads, tmp_path, component):
    folder = shutil.copytree(two_heads / "pipeline", tmp_path / "pipeline")
    both = calibrate(folder, two_heads / "dev.spacy", dry_run=True)
    done = calibrate(folder, two_heads / "dev.spacy", component=component)
    assert done.fitted == tuple(one for one in both.fitted if one.component == component)
    config, old = (spacy.util.load_config(path / "config.cfg") for path in (folder, two_heads / "pipeline"))
    for name in ("qa", "ner", "pair"):
        assert (config["components"][name] == old["components"][name]) == (name != component)


def test_heads_before_it_do_not_matter(two_heads, tmp_path):
    folder = shutil.copytree(two_heads / "pipeline", tmp_path / "pipeline")
    nlp = load_pipeline(folder)
    egs = read_examples(nlp, two_heads / "dev.spacy")
    assert not any(eg.predicted.cats or eg.predicted.ents or "answers" in eg.predicted.spans for eg in egs)
    nlp.remove_pipe("qa")
    nlp.to_disk(tmp_path / "less")
    less = calibrate(tmp_path / "less", two_heads / "dev.spacy", dry_run=True)
    assert less.fitted == calibrate(folder, two_heads / "dev.spacy", component="pair").fitted


# --- nothing to fit, and errors


def test_categories_that_are_not_exclusive_have_nothing_to_fit(copy):
    folder, data = copy("tags")
    before = content(folder)
    done = calibrate(folder, data)
    assert done.fitted == ()
    assert done.before == done.after
    assert content(folder) == before


def test_a_head_that_is_not_there(copy):
    folder, data = copy("textcat")
    with pytest.raises(
        ConfigError, match=r"Found the components encoder, textcat; expected one named 'intent'.*Name another component"
    ):
        calibrate(folder, data, component="intent")


@pytest.mark.parametrize("component", [None, "ner", "encoder"])
def test_a_pipeline_without_such_a_head(made, component):
    with pytest.raises(ConfigError, match=r"Found the components encoder, ner; expected .*bertft_textcat.*bertft_qa"):
        calibrate(made / "ner", made / "textcat.jsonl", component=component)


@pytest.mark.parametrize(
    ("name", "ending", "text"),
    [
        ("textcat", ".jsonl", '{"text": "no label", "spans": []}\n'),
        ("unknown", ".jsonl", '{"text": "another label", "label": "new"}\n'),
        ("pair", ".jsonl", '{"first": "a", "second": "b"}\n'),
        ("qa", ".tsv", table(PAIRS)),
    ],
)
def test_data_without_annotation_for_the_head(copy, tmp_path, name, ending, text):
    folder, _ = copy(name)
    data = tmp_path / f"dev{ending}"
    data.write_text(text, "utf-8")
    before = content(folder)
    with pytest.raises(DataError, match=r"The data have no annotation for '\w+'.*Give annotated texts"):
        calibrate(folder, data)
    assert content(folder) == before


def test_data_without_segments(copy, made):
    folder, _ = copy("pair")
    with pytest.raises(DataError, match=r"'pair' got a Doc without doc\.spans"):
        calibrate(folder, made / "textcat.jsonl")


def test_data_without_unknown_texts(copy, made):
    folder, _ = copy("unknown")
    before = content(folder)
    with pytest.raises(DataError, match=rf"Found {len(KNOWN)} texts of known categories and 0 others.*'none'.*Add"):
        calibrate(folder, made / "textcat.jsonl")
    assert content(folder) == before


def test_a_path_that_is_no_pipeline(made, tmp_path):
    data = made / "textcat.jsonl"
    with pytest.raises(ConfigError, match=r"'.*nowhere' is not a folder.*training/model-best"):
        calibrate(tmp_path / "nowhere", data)
    with pytest.raises(ConfigError, match=r"has no config\.cfg; found .*Give the path of the folder"):
        calibrate(made, data)
    (tmp_path / "config.cfg").write_text("[nlp]\nlang = 3\n", "utf-8")
    with pytest.raises(ConfigError, match="could not be loaded"):
        calibrate(tmp_path, data)


def test_data_that_are_not_there_or_hold_nothing(copy, tmp_path):
    folder, _ = copy("textcat")
    with pytest.raises(DataError, match=r"none\.spacy' were not found.*bertft convert"):
        calibrate(folder, tmp_path / "none.spacy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="hold no texts"):
        calibrate(folder, tmp_path / "empty")
    (tmp_path / "bad.spacy").write_bytes(b"no DocBin")
    with pytest.raises(DataError, match=r"bad\.spacy' could not be read.*Make it again"):
        calibrate(folder, tmp_path / "bad.spacy")


# --- thresholds near the ends


@pytest.mark.parametrize("margin", [-14.0, -9.0, 0.0, 9.0, 12.0])
def test_the_fitted_threshold_lies_between_very_sure_answers_too(margin):
    """A wrong answer, and a right one that is likelier beside none by two logits."""
    margins = [margin, margin + 2.0]
    (threshold,) = AnswerTask().fit([(margins[0], 0.0, 1.0), (margins[1], 1.0, 0.0)]).values()
    wrong, right = (1 / (1 + np.exp(-one)) for one in margins)
    assert wrong < threshold <= right
