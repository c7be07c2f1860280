"""`bertft_mlm`: masks of Docs, their candidates, saving and loading."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys

import pytest
import spacy
import torch
from confection import ConfigValidationError
from pipelines import examples, trained
from spacy.tokens import DocBin
from tiny import make_encoder

from spacy_bertft.components.fill_mask_pipe import FillMaskPipe
from spacy_bertft.encoder.fill_mask import FillMask
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import ConfigError, EncoderError

pytestmark = pytest.mark.touches_transformers

TEXTS = ["Anna lives in [MASK].", "Nothing happened", "", "[MASK] went to work in the [MASK] yesterday"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("masked") / "one", "bert-uncased", head="AutoModelForMaskedLM")


def blank(folder, **settings):
    nlp = spacy.blank("en")
    nlp.add_pipe("bertft_mlm", config={"model": str(folder), "device": "cpu", **settings})
    return nlp


def found(doc, key="masks"):
    """Offsets and candidates of the masks of a Doc, rounded."""
    return [
        (span.start_char, span.end_char, [(text, round(value, 5)) for text, value in span._.candidates])
        for span in doc.spans[key]
    ]


@pytest.fixture(scope="module")
def expected(folder):
    nlp = blank(folder)
    return [found(nlp(text)) for text in TEXTS]


def test_masks_are_spans_with_candidates(folder):
    doc = blank(folder)("Anna lives in [MASK] and [MASK].")
    fill_mask = FillMask.load(str(folder), EncoderSettings(device="cpu"))
    (masks,) = fill_mask.fill([doc.text])
    assert [span.text for span in doc.spans["masks"]] == ["[MASK]", "[MASK]"]
    for span, mask in zip(doc.spans["masks"], masks, strict=True):
        assert (span.start_char, span.end_char) == (mask.start, mask.end)
        assert span._.candidates == [(one.text, one.probability) for one in mask.candidates]
        assert len(span._.candidates) == 5
    assert doc.spans["masks"][0]._.candidates != doc.spans["masks"][1]._.candidates


def test_docs_without_masks_have_none(folder):
    nlp = blank(folder)
    for text in ("Nothing happened", "", "   ", "[MASK", "mask"):
        doc = nlp(text)
        assert list(doc.spans["masks"]) == []
        assert doc.spans["masks"].attrs["candidates"] == []


def test_other_spans_have_no_candidates(folder):
    doc = blank(folder)("Anna lives in [MASK].")
    doc.spans["other"] = [doc[0:1]]
    assert doc[0:1]._.candidates == []
    (mask,) = doc.spans["masks"]
    assert doc[mask.start : mask.end]._.candidates == mask._.candidates  # whoever made the span


def test_a_mask_inside_a_token_takes_the_whole_token(folder):
    doc = blank(folder)("un[MASK]able")
    (span,) = doc.spans["masks"]
    assert span.text in doc.text
    assert "[MASK]" in span.text
    assert span._.candidates


def test_a_mask_that_takes_in_the_space_before_it_leaves_the_token_before_out(tmp_path):
    folder = make_encoder(tmp_path / "one", "xlm-roberta", head="AutoModelForMaskedLM")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for token in content["added_tokens"]:
        token["lstrip"] |= token["content"] == "<mask>"  # as in the published tokenizer
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    doc = blank(folder)("Anna lives in <mask>.")
    (span,) = doc.spans["masks"]
    assert span.text == "<mask>"


def test_a_stream_gives_what_single_texts_give(folder, expected):
    nlp = blank(folder)
    for batch_size in (1, 2, 100):
        assert [found(doc) for doc in nlp.pipe(TEXTS, batch_size=batch_size)] == expected
    assert list(nlp.pipe([])) == []


@pytest.mark.slow
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_processes_give_what_one_gives(folder, expected, used):
    """In a process of its own, with threads, which forked workers would wait for in vain."""
    code = f"""
import spacy, torch
torch.set_num_threads(2)
nlp = spacy.blank("en")
nlp.add_pipe("bertft_mlm", config={{"model": {str(folder)!r}, "device": "cpu"}})
texts = {TEXTS!r}
if {used}:
    list(nlp.pipe([text * 40 for text in texts] * 5))
for doc in nlp.pipe(texts, n_process=2, batch_size=2):
    print([[text for text, _ in span._.candidates] for span in doc.spans["masks"]])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    lines = [str([[text for text, _ in candidates] for _, _, candidates in masks]) for masks in expected]
    assert done.stdout.splitlines() == lines


def test_a_saved_pipeline_needs_nothing_but_itself(folder, expected, tmp_path):
    source = shutil.copytree(folder, tmp_path / "source")
    blank(source, top=2).to_disk(tmp_path / "pipeline")
    shutil.rmtree(source)
    assert (tmp_path / "pipeline/bertft_mlm/model/config.json").is_file()
    again = spacy.load(tmp_path / "pipeline")
    assert again.get_pipe("bertft_mlm").top == 2
    for text, masks in zip(TEXTS, expected, strict=True):
        assert found(again(text)) == [(start, end, candidates[:2]) for start, end, candidates in masks]
    again.to_disk(tmp_path / "again")
    shutil.rmtree(tmp_path / "pipeline")
    third = spacy.load(tmp_path / "again")
    assert found(third(TEXTS[0])) == found(again(TEXTS[0]))


def test_bytes_hold_the_model(folder, expected, tmp_path):
    source = shutil.copytree(folder, tmp_path / "source")
    content = blank(source).to_bytes()
    shutil.rmtree(source)
    again = blank(source).from_bytes(content)
    assert [found(doc) for doc in again.pipe(TEXTS)] == expected


def test_docs_keep_their_candidates(folder, expected):
    nlp = blank(folder)
    docs = list(nlp.pipe(TEXTS))
    packed = DocBin(docs=docs).to_bytes()
    again = list(DocBin().from_bytes(packed).get_docs(spacy.blank("en").vocab))
    assert [found(doc) for doc in again] == expected
    copied = spacy.tokens.Doc(nlp.vocab).from_bytes(docs[0].to_bytes())
    assert found(copied) == expected[0]


def test_settings(folder, expected):
    nlp = blank(folder, top=1, spans_key="gaps")
    doc = nlp(TEXTS[0])
    assert list(doc.spans) == ["gaps"]
    assert found(doc, "gaps") == [(start, end, candidates[:1]) for start, end, candidates in expected[0]]
    doc = blank(folder, top=10**6)(TEXTS[0])
    (span,) = doc.spans["masks"]
    assert sum(value for _, value in span._.candidates) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("top", [0, -1])
def test_fewer_than_one_candidate_is_refused(folder, top):
    with pytest.raises(ConfigError, match=rf"top of 'bertft_mlm' is {top}; expected at least 1\. Set a larger one"):
        blank(folder, top=top)


@pytest.mark.parametrize("settings", [{"topp": 3}, {"top": "many"}, {"device": "tpu"}, {"spans_key": None}])
def test_settings_that_make_no_sense_are_refused(folder, settings):
    with pytest.raises(ConfigValidationError, match=next(iter(settings))):
        blank(folder, **settings)


def test_a_model_that_is_not_there_is_a_clear_error(tmp_path):
    nlp = blank("nowhere/at-all")  # looked for when it is needed
    for use in (lambda: nlp(TEXTS[0]), lambda: nlp.to_disk(tmp_path), nlp.initialize, nlp.to_bytes):
        with pytest.raises(EncoderError, match=r"'nowhere/at-all' could not be loaded with a masked-LM head"):
            use()


def test_an_error_goes_to_the_handler_of_the_pipeline(folder, caplog):
    nlp = blank(folder)
    component = nlp.get_pipe("bertft_mlm")
    fill = component.fill_mask.fill

    def fail(texts, **settings):
        if "bad" in texts:
            raise ValueError("bad")
        return fill(texts, **settings)

    component.fill_mask.fill = fail
    with pytest.raises(ValueError, match="bad"):
        list(nlp.pipe(["good [MASK]", "bad"], batch_size=1))
    nlp.set_error_handler(lambda name, *others: logging.getLogger("test").error(name))
    assert [doc.text for doc in nlp.pipe(["good [MASK]", "bad", "good"], batch_size=1)] == ["good [MASK]", "good"]
    assert caplog.messages == ["bertft_mlm"]


def test_initialising_loads_the_model(folder, expected):
    nlp = blank(folder)
    nlp.initialize()
    assert found(nlp(TEXTS[0])) == expected[0]
    assert nlp.evaluate([]) is not None


def test_it_works_beside_heads(folder, tiny_bert, expected, tmp_path):
    nlp = trained(tiny_bert, {"ner": "bertft_ner"})
    ents = [[ent.text for ent in doc.ents] for doc in nlp.pipe(TEXTS)]
    nlp.add_pipe("bertft_mlm", name="cloze", config={"model": str(folder), "device": "cpu"})
    assert isinstance(nlp.get_pipe("cloze"), FillMaskPipe)
    nlp.to_disk(tmp_path)
    for one in (nlp, spacy.load(tmp_path)):
        docs = list(one.pipe(TEXTS))
        assert [found(doc) for doc in docs] == expected
        assert [[ent.text for ent in doc.ents] for doc in docs] == ents
    assert ents[0]


def test_training_the_heads_leaves_it_alone(folder, tiny_bert, expected):
    nlp = trained(tiny_bert, {"ner": "bertft_ner"}, steps=1)
    nlp.add_pipe("bertft_mlm", config={"model": str(folder), "device": "cpu"})
    optimizer = nlp.resume_training()
    nlp.update(examples(nlp), sgd=optimizer)
    assert found(nlp(TEXTS[0])) == expected[0]


def test_threads_are_left_alone_in_the_main_process(folder):
    before = torch.get_num_threads()
    blank(folder)(TEXTS[0])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_saved_pipeline_without_one_of_its_files_does_not_load(folder, tmp_path, name):
    blank(folder).to_disk(tmp_path)
    (tmp_path / "bertft_mlm/model" / name).unlink()
    with pytest.raises(EncoderError, match=f"holds no {name} .*Copy it again"):
        spacy.load(tmp_path)
