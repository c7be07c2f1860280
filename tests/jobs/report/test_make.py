"""`make_report`: what the page says of each kind of head, and what it says where something is missing."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import spacy
import torch
from pipelines import ANNOTATED, annotated_file, blank, blank_pair, examples, save_trained, trained
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.evaluate import evaluate, load_pipeline, read_examples
from spacy_bertft.jobs.report.judge import judge
from spacy_bertft.jobs.report.make import make_report

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

CONTEXT = "Anna lives in Berlin near the old garden. Bob Stone went to work in Rome yesterday."
QUESTIONS = [("Where does Anna live?", "Berlin"), ("Where did Bob go?", "Rome"), ("Who is Clara?", None)]


def jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def page_of(pipeline, data, tmp_path, **settings):
    data = data if isinstance(data, list) else [data]
    done = make_report(pipeline, data, output=tmp_path / "report.html", **settings)
    return done.path.read_text(encoding="utf-8")


def words(page):
    """The text of a page, as one line."""
    body = page[page.index("<body>") :]
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", " ", body, flags=re.DOTALL)).split())


@pytest.fixture(scope="module")
def pipeline(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "pipeline"
    trained(tiny_bert).to_disk(folder)
    return folder


@pytest.fixture
def dev(tmp_path):
    """The texts that were learned, one with another category and one without an entity."""
    (first, second, *rest) = ANNOTATED
    return annotated_file(tmp_path / "dev.jsonl", [(*first[:2], "work"), (second[0], second[1][:1], second[2]), *rest])


def test_the_scores_are_those_of_evaluate(pipeline, dev, tmp_path):
    scores = evaluate(pipeline, dev)
    nlp = load_pipeline(pipeline)
    results = judge(nlp, read_examples(nlp, dev))
    assert results.scores == scores
    ner, textcat = results.heads
    for head, keys in ((ner, ("ents_f", "ents_p", "ents_r")), (textcat, ("cats_micro_f", "cats_macro_f"))):
        for score, key in zip(head.scores, keys, strict=False):
            assert 100 * float(score.of(head.sums.sum(axis=0))) == pytest.approx(scores.overall[key]), key
    counts = ner.of_labels.sum(axis=0)
    for label, (right, invented, missed) in zip(ner.labels, counts, strict=True):
        assert scores.of_labels[f"ents_per_type.{label}.p"] == pytest.approx(100 * right / (right + invented))
        assert scores.of_labels[f"ents_per_type.{label}.r"] == pytest.approx(100 * right / (right + missed))
    page = words(page_of(pipeline, dev, tmp_path))
    assert f"{scores.overall['ents_f']:.1f}" in page
    assert f"{scores.overall['cats_micro_f']:.1f}" in page


def test_it_says_what_was_written(pipeline, dev, tmp_path):
    done = make_report(pipeline, [dev], output=tmp_path / "new" / "report.html", seed=3)
    assert done.path.is_file()
    assert done.n_texts == len(ANNOTATED)
    assert [(name, score.title) for name, score, _ in done.scores] == [("ner", "F-score"), ("textcat", "Accuracy")]
    for _, _, found in done.scores:
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_equal_seeds_give_equal_pages(pipeline, dev, tmp_path):
    def made(seed):
        return re.sub(r"\d+ \w+ \d+, \d\d:\d\d", "", page_of(pipeline, dev, tmp_path, seed=seed))

    assert made(1) == made(1)
    assert made(1) != made(2)


def test_several_files_are_slices(pipeline, dev, tmp_path):
    other = annotated_file(tmp_path / "other.jsonl", ANNOTATED[:2])
    page = words(page_of(pipeline, [dev, other], tmp_path))
    assert re.search(r"File texts F-score dev\.jsonl 6 .*other\.jsonl 2 ", page)
    folder = tmp_path / "converted"
    folder.mkdir()
    nlp = load_pipeline(pipeline)
    for path in (dev, other):
        DocBin(docs=[eg.reference for eg in read_examples(nlp, path)]).to_disk(folder / f"{path.stem}.spacy")
    assert re.search(r"File texts F-score dev\.spacy 6 .*other\.spacy 2 ", words(page_of(pipeline, folder, tmp_path)))


def test_training_texts_tell_what_was_unseen(pipeline, dev, tmp_path):
    without = words(page_of(pipeline, dev, tmp_path))
    assert "The pipeline's config names no training texts; give them with --train" in html_free(without)
    train = annotated_file(tmp_path / "train.jsonl", ANNOTATED[:3])
    page = words(page_of(pipeline, dev, tmp_path, train=[train]))
    assert "3 texts (50.0%) are also training texts" in page
    assert "all words seen" in page
    assert "seen in training" in page
    assert "Label frequency in training" in page
    with pytest.raises(DataError, match="were not found"):
        page_of(pipeline, dev, tmp_path, train=[tmp_path / "none.jsonl"])


def html_free(text):
    return text.replace("&#39;", "'")


def test_two_pipelines_are_compared(tiny_bert, pipeline, dev, tmp_path):
    other = tmp_path / "other"
    trained(tiny_bert, steps=1).to_disk(other)
    page = page_of(pipeline, dev, tmp_path, other=other)
    assert '<section id="comparison">' in page
    assert re.search(r"Accuracy 83\.3 \S+ \S+ −?\S+ to \S+ [01]\.\d{3} Macro F", words(page))
    assert re.search(r"Of 6 texts, \d are entirely right only here, \d only with the other", words(page))
    assert "Texts that only this pipeline has right, with the errors of the other" in page


def test_a_comparison_with_itself_has_no_difference(pipeline, dev, tmp_path):
    page = words(page_of(pipeline, dev, tmp_path, other=pipeline))
    assert "Of 6 texts, 0 are entirely right only here, 0 only with the other" in page
    assert re.search(r"F-score (\S+) \1 0\.0 0\.0 to 0\.0 1\.000", page)


def test_a_comparison_with_other_heads_says_so(tiny_bert, pipeline, dev, tmp_path):
    other = tmp_path / "other"
    trained(tiny_bert, {"ner": "bertft_ner"}, steps=1).to_disk(other)
    assert "The other pipeline has no head like textcat (bertft_textcat)." in page_of(
        pipeline, dev, tmp_path, other=other
    )


def test_labels_and_texts_are_escaped(tiny_bert, tmp_path):
    nlp = blank(tiny_bert, {"ner": "bertft_ner", "cats": "bertft_textcat"})
    rows = [
        ("<b>Anna</b> & Bob live in <i>Rome</i>", [(3, 7, "<u>X</u>"), (29, 33, "Y&Z")], "<script>a"),
        ("Bob went <b>home</b>", [(0, 3, "Y&Z")], "b"),
    ]
    data = annotated_file(tmp_path / "dev.jsonl", rows)
    page = page_of(save_trained(nlp, data, tmp_path / "pipeline", steps=0), data, tmp_path)
    assert "<script" not in page
    assert not re.search(r"<(u|i|b)>(X|Rome|Anna|home)", page)
    assert "&lt;u&gt;X&lt;/u&gt;" in page


# --- the other heads


def test_a_head_for_several_labels(tiny_bert, tmp_path):
    rows = [("Anna went home", ["home"]), ("Bob went to work", ["work"]), ("Anna works at home", ["home", "work"])]
    data = jsonl(tmp_path / "dev.jsonl", [{"text": text, "labels": labels} for text, labels in rows * 4])
    pipeline = save_trained(blank(tiny_bert, {"labels": "bertft_textcat_multilabel"}), data, tmp_path / "pipeline")
    page = words(page_of(pipeline, data, tmp_path))
    assert "labels · F-score" in page
    assert "Each label of each text counts once" in page
    assert "as the pipeline runs: threshold 0.50" in page_of(pipeline, data, tmp_path)


def test_a_head_for_pairs(tiny_bert, tmp_path):
    rows = [("Where does Anna live?", "In Berlin.", "answers"), ("Who is Bob?", "Where is Anna?", "asks")] * 4
    data = tmp_path / "dev.tsv"
    data.write_text("first\tsecond\tlabel\n" + "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    pipeline = save_trained(blank_pair(tiny_bert, {"head": "bertft_pair"}), data, tmp_path / "pipeline", steps=0)
    page = page_of(pipeline, data, tmp_path)
    assert "head · Accuracy" in words(page)
    assert '<span class="between">' in page


def test_a_head_for_answers(tiny_bert, tmp_path):
    qas = [
        {
            "question": question,
            "answers": [{"text": answer, "answer_start": CONTEXT.index(answer)}] if answer else [],
        }
        for question, answer in QUESTIONS
    ]
    data = tmp_path / "dev.json"
    data.write_text(json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": qas}]}]}), encoding="utf-8")
    pipeline = save_trained(blank_pair(tiny_bert, {"head": "bertft_qa"}), data, tmp_path / "pipeline", steps=30)
    page = words(page_of(pipeline, data, tmp_path))
    assert "Exact match" in page
    assert "Accuracy without an answer" in page
    silent = load_pipeline(pipeline, {"components.head.threshold": 1.0})
    silent.to_disk(tmp_path / "silent")
    page = words(page_of(tmp_path / "silent", data, tmp_path))
    assert "No answer reached the threshold" in page
    assert "Where does Anna live? no answer instead of “Berlin”" in page
    nlp = load_pipeline(pipeline)
    for threshold in (0.0, 0.5, 1.0):
        nlp.get_pipe("head").task = type(nlp.get_pipe("head").task)(threshold=threshold)
        nlp.to_disk(tmp_path / "changed")
        config = spacy.util.load_config(tmp_path / "changed" / "config.cfg")
        config["components"]["head"]["threshold"] = threshold
        config.to_disk(tmp_path / "changed" / "config.cfg")
        results = judge(nlp, read_examples(nlp, data))
        scores = evaluate(tmp_path / "changed", data).overall
        assert results.scores.overall == scores
        (head,) = results.heads
        assert 100 * head.scores[0].of(head.sums.sum(axis=0)) == pytest.approx(scores["answer_f"])
        assert nlp.get_pipe("head").task.threshold == threshold


def test_a_head_for_numbers(tiny_bert, tmp_path):
    data = jsonl(tmp_path / "dev.jsonl", [{"text": f"Anna gave {n}", "value": n} for n in range(8)])
    pipeline = save_trained(blank(tiny_bert, {"rating": "bertft_regression"}), data, tmp_path / "pipeline", steps=2)
    page = words(page_of(pipeline, data, tmp_path))
    scores = evaluate(pipeline, data).overall
    assert f"Mean absolute error {scores['value_mae']:.3f}" in page
    assert f"{scores['value_pearson']:.1f}" in page
    assert "furthest off first" in page
    assert "instead of" in page


def test_two_heads_of_categories_are_told_apart_by_their_labels(tiny_bert, tmp_path):
    data = annotated_file(tmp_path / "dev.jsonl")
    nlp = blank(tiny_bert, {"place": "bertft_textcat", "mood": "bertft_textcat"})
    golds = examples(nlp)
    for eg in golds:
        happy = float("home" in eg.reference.text)
        eg.reference.cats = {**eg.reference.cats, "happy": happy, "sad": 1 - happy}
    nlp.get_pipe("place").initialize(lambda: golds, nlp=nlp, labels=["home", "work"])
    nlp.get_pipe("mood").initialize(lambda: golds, nlp=nlp, labels=["happy", "sad"])
    nlp.to_disk(tmp_path / "pipeline")
    page = words(page_of(tmp_path / "pipeline", data, tmp_path))
    assert "mood (bertft_textcat): The data have no gold category that this head knows" in page
    assert "place · Accuracy" in page


def test_spancat_on_our_encoder(tiny_bert, tmp_path):
    nlp = blank(tiny_bert, {})
    listener = {"@architectures": "spacy-bertft.Listener.v1"}
    model = {"@architectures": "spacy.SpanCategorizer.v1", "tok2vec": listener}
    nlp.add_pipe("spancat", config={"model": model, "threshold": 0.01})
    docs = []
    for eg in examples(nlp):
        doc = eg.reference
        doc.spans["sc"] = [*doc.ents, *(doc[: ent.end] for ent in doc.ents[:1] if ent.start > 0)]
        docs.append(doc)
    DocBin(docs=docs).to_disk(tmp_path / "dev.spacy")
    nlp.initialize(lambda: [Example(nlp.make_doc(doc.text), doc) for doc in docs])
    nlp.to_disk(tmp_path / "pipeline")
    page = page_of(tmp_path / "pipeline", tmp_path / "dev.spacy", tmp_path)
    scores = evaluate(tmp_path / "pipeline", tmp_path / "dev.spacy").overall
    assert f"spancat · F-score {scores['spans_sc_f']:.1f}" in words(page)
    assert '<div class="spans"' in page  # displaCy's style for spans that overlap
    assert "threshold 0.01" in page


def test_spacys_own_ner_has_no_confidence(tiny_bert, tmp_path):
    nlp = blank(tiny_bert, {})
    listener = {"@architectures": "spacy-bertft.Listener.v1"}
    model = {"@architectures": "spacy.TransitionBasedParser.v2", "state_type": "ner", "tok2vec": listener}
    nlp.add_pipe("ner", config={"model": model})
    data = annotated_file(tmp_path / "dev.jsonl")
    page = words(page_of(save_trained(nlp, data, tmp_path / "pipeline", steps=50), data, tmp_path))
    assert "This component gives no confidence" in page
    assert "in the order of the data" in page or "No text has an error" in page


# --- what is missing


def test_one_category_alone(pipeline, tmp_path):
    data = annotated_file(tmp_path / "dev.jsonl", [ANNOTATED[0], ANNOTATED[2]])
    page = words(page_of(pipeline, data, tmp_path))
    assert "All texts are of one category, home" in page
    assert "textcat: only 2 annotated texts, so the intervals are wide" in page


def test_a_head_without_gold_annotation(pipeline, tmp_path):
    data = jsonl(tmp_path / "dev.jsonl", [{"text": text, "label": cat} for text, _, cat in ANNOTATED])
    page = words(page_of(pipeline, data, tmp_path))
    assert "ner (bertft_ner): The data have no gold entities, so there is nothing to measure." in page
    assert "textcat · Accuracy" in page


def test_no_gold_annotation_at_all(pipeline, tmp_path):
    data = jsonl(tmp_path / "dev.jsonl", [{"text": "Anna lives in Berlin"}])
    with pytest.raises(DataError, match=r"no gold annotation .* \(found: ner .*Expected .* Give annotated texts"):
        page_of(pipeline, data, tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_nothing_predicted(tiny_bert, tmp_path):
    nlp = trained(tiny_bert, {"ner": "bertft_ner"}, steps=1)
    module = nlp.get_pipe("ner").model.shims[0].module
    with torch.no_grad():
        module.output.bias[0] = 1000.0  # of O
    nlp.to_disk(tmp_path / "pipeline")
    page = words(page_of(tmp_path / "pipeline", annotated_file(tmp_path / "dev.jsonl"), tmp_path))
    assert "Nothing was predicted. Train longer" in page
    assert "ner · F-score 0.0" in page
    assert "There are no predictions with a confidence" in page


def test_gold_texts_without_any_entity(pipeline, tmp_path):
    data = jsonl(tmp_path / "dev.jsonl", [{"text": "Nothing happened", "spans": []}])
    assert "The gold texts hold no span at all" in page_of(pipeline, data, tmp_path)


def test_a_run_without_curves(pipeline, dev, tmp_path):
    assert "The training left no curves: there is no training_log.csv beside the pipeline" in page_of(
        pipeline, dev, tmp_path
    )


def test_a_long_text(pipeline, tmp_path):
    text = " ".join(["Anna lives in Berlin and works in Rome."] * 2500)
    data = jsonl(tmp_path / "dev.jsonl", [{"text": text, "spans": [[0, 4, "PERSON"]], "label": "home"}] * 2)
    page = page_of(pipeline, data, tmp_path)
    assert "100% of the texts are longer than the encoder" in page.replace("&#39;", "'")
    assert len(page) < 500_000


def test_misaligned_entities_are_counted(pipeline, tmp_path):
    rows = [("Anna lives in Berlin", [(0, 3, "PERSON"), (14, 20, "CITY")], "home")]
    page = words(page_of(pipeline, annotated_file(tmp_path / "dev.jsonl", rows), tmp_path))
    assert "1 of 2 gold entities don't begin and end with a token" in html_free(page)
    assert "“Ann” (PERSON" in page
    # In .spacy, gold tokens may differ from the pipeline's.
    nlp = load_pipeline(pipeline)
    doc = Doc(nlp.vocab, words=["An", "na", "lives"], spaces=[False, True, False])
    doc.set_ents([spacy.tokens.Span(doc, 0, 1, "PERSON")])
    DocBin(docs=[doc]).to_disk(tmp_path / "dev.spacy")
    page = words(page_of(pipeline, tmp_path / "dev.spacy", tmp_path))
    assert "1 of 1 gold entities don't begin and end with a token" in html_free(page)


def test_a_folder_as_output_is_refused(pipeline, dev, tmp_path):
    with pytest.raises(ConfigError, match=r"found a folder; expected an HTML file"):
        make_report(pipeline, [dev], output=tmp_path)


def test_a_missing_package_names_the_extra(pipeline, dev, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"needs jinja2 and matplotlib.*spacy-bertft\[report\]"):
        page_of(pipeline, dev, tmp_path)


def test_a_calibrated_pipeline_is_shown_before_and_after(pipeline, dev, tmp_path):
    nlp = load_pipeline(pipeline, {"components.textcat.temperature": 2.0})
    nlp.to_disk(tmp_path / "calibrated")
    page = page_of(tmp_path / "calibrated", dev, tmp_path)
    saved = re.search(r"temperature 2, as saved: ECE ([\d.]+)", page)
    before = re.search(r"temperature 1, before: ECE ([\d.]+)", page)
    assert saved is not None
    assert before is not None
    plain = load_pipeline(pipeline)
    (head,) = (head for head in judge(plain, read_examples(plain, dev)).heads if head.name == "textcat")
    calibrated = judge(nlp, read_examples(nlp, dev)).heads[1].calibration
    # Taken back to temperature 1, the probabilities are those of the pipeline that was never calibrated.
    np.testing.assert_allclose(calibrated.other.confidence, head.calibration.saved.confidence, rtol=1e-4)
