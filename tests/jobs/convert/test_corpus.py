"""`spacy-bertft.Corpus.v1`: examples straight from annotated files."""

from __future__ import annotations

import json

import pytest
import spacy
from convert_helpers import ents, jsonl
from spacy.training import Example
from spacy.util import registry
from thinc.api import Config

from spacy_bertft.convert import convert
from spacy_bertft.errors import ConfigError, DataError

TABLE = "first\tsecond\tlabel\nIs it open?\tAre you open?\tsame\nIs it open?\tIs it far?\tother\n"
RECORDS = jsonl(
    {"text": "Ada met Bobby", "label": "a", "spans": [[0, 3, "PER"]]}, {"text": "Bobby ran", "label": "b", "spans": []}
)
CONTEXT = "Anna lives in Berlin."
SQUAD = json.dumps(
    {
        "data": [
            {
                "paragraphs": [
                    {
                        "context": CONTEXT,
                        "qas": [
                            {"question": "Where?", "answers": [{"text": "Berlin", "answer_start": 14}]},
                            {"question": "When?", "answers": []},
                            {"question": "Who?"},
                        ],
                    }
                ]
            }
        ]
    }
)
CONLL = "New B-LOC\nYork I-LOC\nisn't O\n\nAda B-PER\n"
FILES = {"a.tsv": TABLE, "a.jsonl": RECORDS, "a.json": SQUAD, "a.iob": CONLL}
SEGMENTS = {
    "a.tsv": [["Is it open?", "Are you open?"], ["Is it open?", "Is it far?"]],
    "a.json": [["Where?", CONTEXT], ["When?", CONTEXT], ["Who?", CONTEXT]],
}


def nlp_for_pairs():
    return spacy.blank("en", config={"nlp": {"tokenizer": {"@tokenizers": "spacy-bertft.PairTokenizer.v1"}}})


def corpus(path, **options):
    return registry.readers.get("spacy-bertft.Corpus.v1")(path=path, **options)


def read(path, nlp=None, **options):
    return list(corpus(path, **options)(nlp or nlp_for_pairs()))


@pytest.fixture
def put(tmp_path):
    def write(name, content=None):
        path = tmp_path / name
        path.write_text(FILES[name] if content is None else content, "utf-8")
        return path

    return write


def segments(doc):
    return [span.text for span in doc.spans.get("segments", [])]


def words(doc):
    return [token.text for token in doc]


@pytest.mark.parametrize("name", FILES)
def test_predicted_docs_have_tokens_and_segments_and_no_annotation(put, name):
    for place, eg in enumerate(read(put(name))):
        assert isinstance(eg, Example)
        assert words(eg.predicted) == words(eg.reference)
        assert segments(eg.predicted) == segments(eg.reference) == SEGMENTS.get(name, [[]] * 3)[place]
        assert eg.predicted.cats == {}
        assert not eg.predicted.has_annotation("ENT_IOB")
        assert "answers" not in eg.predicted.spans


def test_references_of_pairs_have_the_category(put):
    assert [eg.reference.cats for eg in read(put("a.tsv"))] == [{"other": 0, "same": 1}, {"other": 1, "same": 0}]


def test_references_of_texts_have_categories_and_entities(put):
    egs = read(put("a.jsonl"))
    assert [eg.reference.cats for eg in egs] == [{"a": 1, "b": 0}, {"a": 0, "b": 1}]
    assert [ents(eg.reference) for eg in egs] == [[("Ada", "PER")], []]
    assert egs[1].reference.has_annotation("ENT_IOB")


def test_references_of_questions_have_answers(put):
    answer, none, unknown = (eg.reference for eg in read(put("a.json")))
    assert [span.text for span in answer.spans["answers"]] == answer.spans["answers"].attrs["texts"] == ["Berlin"]
    assert list(none.spans["answers"]) == []
    assert "answers" not in unknown.spans


def test_conll_brings_its_own_tokens(put):
    first, second = read(put("a.iob"), spacy.blank("en"))
    assert words(first.predicted) == ["New", "York", "isn't"]
    assert [ents(eg.reference) for eg in (first, second)] == [[("New York", "LOC")], [("Ada", "PER")]]


@pytest.mark.parametrize("name", ["a.tsv", "a.jsonl", "a.json"])
def test_a_file_and_what_convert_makes_of_it_are_the_same(put, tmp_path, name):
    path = put(name)
    convert([path], tmp_path / "out")
    direct = read(path)
    for source in (tmp_path / "out" / "a.spacy", tmp_path / "out"):
        converted = read(source)
        assert len(converted) == len(direct)
        for one, other in zip(direct, converted, strict=True):
            for side in ("predicted", "reference"):
                first, second = getattr(one, side), getattr(other, side)
                assert words(first) == words(second)
                assert first.cats == second.cats
                assert ents(first) == ents(second)
                assert first.has_annotation("ENT_IOB") == second.has_annotation("ENT_IOB")
                assert {key: list(map(str, group)) for key, group in first.spans.items()} == {
                    key: list(map(str, group)) for key, group in second.spans.items()
                }


def test_the_tokenizer_is_that_of_the_pipeline(put):
    path = put("a.jsonl", jsonl({"text": "don't", "label": "a"}))
    assert [words(read(path, spacy.blank(lang))[0].predicted) for lang in ("en", "xx")] == [["do", "n't"], ["don't"]]


def test_the_docs_are_the_pipelines_own(put):
    nlp = nlp_for_pairs()
    for eg in read(put("a.tsv"), nlp):
        assert eg.predicted.vocab is eg.reference.vocab is nlp.vocab


def test_a_file_is_read_anew_each_time(put):
    path, nlp = put("a.tsv"), nlp_for_pairs()
    reader = corpus(path)
    first, again = list(reader(nlp)), list(reader(nlp))
    assert first[0].predicted is not again[0].predicted
    path.write_text(TABLE.replace("far", "near"), "utf-8")
    assert [words(eg.predicted) for eg in again] != [words(eg.predicted) for eg in reader(nlp)]


def test_keys_and_format_can_be_named(put):
    names = {"first_key": "premise", "second_key": "hypothesis", "label_key": "gold"}
    (eg,) = read(put("a.txt", "premise\thypothesis\tgold\na\tb\tx\n"), format="tsv", **names)
    assert (segments(eg.predicted), eg.reference.cats) == (["a", "b"], {"x": 1.0})
    (eg,) = read(put("b.jsonl", jsonl({"body": "a", "kinds": ["x"]})), text_key="body", labels_key="kinds")
    assert (eg.predicted.text, eg.reference.cats) == ("a", {"x": 1.0})


def test_both_orders_double_the_pairs(put):
    both = registry.augmenters.get("spacy-bertft.both_orders.v1")()
    egs = read(put("a.tsv"), augmenter=both)
    assert [segments(eg.predicted) for eg in egs] == [
        one for pair in SEGMENTS["a.tsv"] for one in (pair, [*reversed(pair)])
    ]
    assert [max(eg.reference.cats, key=eg.reference.cats.get) for eg in egs] == ["same", "same", "other", "other"]
    assert len(read(put("a.jsonl"), augmenter=both)) == 2  # of texts alone there is but one order


def test_both_orders_of_converted_pairs(put, tmp_path):
    convert([put("a.tsv")], tmp_path / "pairs.spacy")
    both = registry.augmenters.get("spacy-bertft.both_orders.v1")()
    assert len(read(tmp_path / "pairs.spacy", augmenter=both)) == 4


def test_it_is_made_from_a_config(put):
    block = {
        "corpora": {
            "train": {
                "@readers": "spacy-bertft.Corpus.v1",
                "path": str(put("a.tsv")),
                "augmenter": {"@augmenters": "spacy-bertft.both_orders.v1"},
            }
        }
    }
    made = registry.resolve(Config().from_str(Config(block).to_str()))["corpora"]["train"]
    assert len(list(made(nlp_for_pairs()))) == 4


def test_a_misspelt_format_in_a_config_is_an_error(put):
    block = {"corpus": {"@readers": "spacy-bertft.Corpus.v1", "path": str(put("a.tsv")), "format": "tvs"}}
    with pytest.raises(ValueError, match=r"format[\s\S]*'tsv'"):
        registry.resolve(block)


# --- formats of other tools

TASKS = json.dumps(
    [
        {
            "data": {"text": "Ada met Bob"},
            "annotations": [
                {
                    "result": [
                        {
                            "from_name": "label",
                            "type": "labels",
                            "value": {"start": a, "end": b, "text": text, "labels": ["PER"]},
                        }
                        for a, b, text in ((0, 3, "Ada"), (0, 11, "Ada met Bob"))
                    ]
                }
            ],
        }
    ]
)


def test_formats_of_tools_and_their_options(put):
    (eg,) = read(put("tasks.json", TASKS), span_group="sc")
    assert [span.text for span in eg.reference.spans["sc"]] == ["Ada", "Ada met Bob"]
    assert "sc" not in eg.predicted.spans
    with pytest.raises(DataError, match=r"tasks\.json: record 1: found overlapping entities"):
        read(put("tasks.json", TASKS))


def test_folders_of_brat(tmp_path):
    (tmp_path / "d.txt").write_text("Ada ran", "utf-8")
    (tmp_path / "d.ann").write_text("T1\tPER 0 3\tAda\nR1\tX Arg1:T1 Arg2:T1\t\n", "utf-8")
    (eg,) = read(tmp_path)
    assert ents(eg.reference) == [("Ada", "PER")]
    with pytest.raises(DataError, match=r"d\.ann:2: found relations \(1\)"):
        read(tmp_path, strict=True)


def test_rejected_spans_reach_spacys_ner(put):
    task = {"text": "Ada ran", "_view_id": "ner", "answer": "reject", "spans": [{"start": 0, "end": 3, "label": "ORG"}]}
    (eg,) = read(put("a.jsonl", jsonl(task)), incorrect_group="wrong")
    assert [(span.text, span.label_) for span in eg.reference.spans["wrong"]] == [("Ada", "ORG")]
    nlp = spacy.blank("en")
    ner = nlp.add_pipe("ner", config={"incorrect_spans_key": "wrong"})
    ner.add_label("ORG")
    nlp.initialize(lambda: [eg])
    losses = nlp.update([eg])
    assert losses["ner"] > 0


# --- errors


def test_no_path_is_an_error_once_it_is_read():
    reader = corpus(None)
    with pytest.raises(DataError, match=r"path of a corpus is missing.*--paths\.train.*config"):
        list(reader(spacy.blank("en")))


@pytest.mark.parametrize("name", ["none.spacy", "none.tsv", "none.jsonl", "none.json", "none.iob"])
def test_a_file_that_is_not_there_is_an_error(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}: found no such file.*fix: "):
        read(tmp_path / name)


def test_a_folder_without_spacy_files_is_an_error(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\na\tb\n", "utf-8")
    with pytest.raises(DataError, match=r"found a folder with \['a\.tsv'\]; expected a file; .*fix: "):
        read(tmp_path)


def test_an_empty_file_is_an_error(put):
    with pytest.raises(DataError, match="found no records"):
        read(put("a.tsv", ""))


def test_an_unknown_ending_is_an_error(put):
    with pytest.raises(ConfigError, match=r"a\.txt: found content of an unknown format.*fix: set format"):
        read(put("a.txt", "Once upon a time\n"))


def test_bad_content_says_where(put):
    with pytest.raises(DataError, match=r"a\.tsv:2: found an empty text"):
        read(put("a.tsv", "first\tsecond\tlabel\na\t\tx\n"))


def test_a_file_that_converts_badly_yields_nothing_first(put):
    read_so_far = []
    with pytest.raises(DataError, match=r"a\.tsv:3"):
        read_so_far.extend(corpus(put("a.tsv", "first\tsecond\tlabel\na\tb\tx\na\t\tx\n"))(nlp_for_pairs()))
    assert read_so_far == []
