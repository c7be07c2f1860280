"""Exported pipelines load and annotate without torch and transformers, as they do with them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import spacy
import torch
from pipelines import TEXTS, blank, blank_pair, examples
from spacy.training import Example

from spacy_bertft import pair_doc
from spacy_bertft.export import export

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

HEADS = {
    "ner": "bertft_ner",
    "textcat": "bertft_textcat",
    "multilabel": "bertft_textcat_multilabel",
    "rating": "bertft_regression",
}
PAIRS = ["Where is it?\tIt is here, in the old garden.", "Who is it?\tAnna lives in Berlin.", "no pair"]
LONG = " ".join(TEXTS * 6)

# All that components set on a Doc, as JSON.
SAID = """
def rows_of(data):  # None of a Doc that a worker has sent back
    return None if data is None else list(data.model_output.last_hidden_state.shape)

def said(doc):
    return {
        "ents": [[ent.start_char, ent.end_char, ent.label_, ent._.score] for ent in doc.ents],
        "cats": doc.cats,
        "answers": [[span.start_char, span.end_char, span._.score] for span in doc.spans.get("answers", [])],
        "no_answer": doc.spans["answers"].attrs["no_answer"] if "answers" in doc.spans else None,
        "value": doc._.value if doc.has_extension("value") else None,
        "tags": [token.tag_ for token in doc],
        "tensor": [float(row.sum()) for row in doc.tensor],
        "rows": rows_of(doc._.trf_data if doc.has_extension("trf_data") else None),
    }
"""
# What keeps torch and transformers from being found, as where they are not installed.
BLOCKED = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
def loaded():
    return sorted({name.split(".")[0] for name in sys.modules} & {"torch", "transformers", "safetensors.torch"})
import spacy
"""
exec(SAID)


def without_torch(code, *arguments):
    """What a process without torch and transformers prints, as JSON."""
    command = [sys.executable, "-W", "ignore", "-c", BLOCKED + SAID + code, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def gold(nlp):
    for number, eg in enumerate(examples(nlp)):
        eg.reference._.value = float(number)
        yield Example(eg.predicted, eg.reference)


def pairs(nlp):
    doc = pair_doc(nlp, "Where is it?", "It is here, in the old garden.")
    doc.cats = {"same": 1.0, "different": 0.0}
    doc.spans["answers"] = [doc[7:8]]
    return [Example(pair_doc(nlp, "Where is it?", "It is here, in the old garden."), doc)]


def saved(nlp, golds, folder, steps=50):
    torch.manual_seed(0)
    optimizer = nlp.initialize(lambda: golds)
    optimizer.learn_rate = 3e-3
    for _ in range(steps):
        nlp.update(golds, sgd=optimizer)
    nlp.to_disk(folder / "trained")
    export(folder / "trained", folder / "exported")
    return folder


@pytest.fixture(scope="module")
def texts(tiny_bert, tmp_path_factory):
    """A pipeline with each head of single texts, a component of spaCy's own, and what reads the encoder beside them."""
    nlp = blank(tiny_bert, HEADS, component={"set_tensor": True}, window=32)
    nlp.add_pipe("tagger", config={"model": {"tok2vec": {"@architectures": "spacy-bertft.Listener.v1"}}})
    nlp.add_pipe("bertft_trf_data")
    golds = list(gold(nlp))
    for eg in golds:
        for token in eg.reference:
            token.tag_ = "LONG" if len(token) > 4 else "SHORT"
    return saved(nlp, golds, tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def paired(tiny_bert, tmp_path_factory):
    """A pipeline with each head of pairs."""
    nlp = blank_pair(tiny_bert, {"pair": "bertft_pair", "qa": "bertft_qa"})
    return saved(nlp, pairs(nlp), tmp_path_factory.mktemp("pairs"))


def assert_near(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


RUN = """
texts = json.loads(sys.argv[2])
nlp = spacy.load(sys.argv[1])
found = [
    [said(nlp(text)) for text in texts],
    [said(doc) for doc in nlp.pipe(texts, batch_size=2)],
    [said(doc) for doc in nlp.pipe(texts, batch_size=2, n_process=2)],
]
print(json.dumps({"found": found, "loaded": loaded()}))
"""


@pytest.mark.parametrize("which", ["texts", "paired"])
def test_every_head_annotates_as_with_torch(which, request):
    folder = request.getfixturevalue(which)
    lines = [*TEXTS, LONG, ""] if which == "texts" else PAIRS[:2]
    expected = [said(doc) for doc in spacy.load(folder / "trained").pipe(lines)]  # noqa: F821  # defined by SAID
    assert any(one["ents"] or one["answers"] for one in expected)
    ours = without_torch(RUN, folder / "exported", json.dumps(lines))
    assert ours["loaded"] == []
    for found in ours["found"]:
        if which == "texts":  # workers send Docs back without the extensions of trf_data
            for one, other in zip(found, expected, strict=True):
                one["rows"] = other["rows"] if one["rows"] is None else one["rows"]
        assert_near(found, expected)
    with_torch = [said(doc) for doc in spacy.load(folder / "exported").pipe(lines)]  # noqa: F821
    assert_near(with_torch, expected)


KEPT = """
from pathlib import Path
texts = json.loads(sys.argv[2])
nlp = spacy.load(sys.argv[1])
nlp.to_disk(sys.argv[3])
again = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
part = spacy.load(sys.argv[1], exclude=["textcat", "rating"], disable=["multilabel"])
other = spacy.blank("en")
for name in ("encoder", "ner"):
    other.add_pipe(name, source=nlp)
files = [sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
         for folder in (sys.argv[1], sys.argv[3])]
alike = all(Path(sys.argv[1], name).read_bytes() == Path(sys.argv[3], name).read_bytes()
            for name in files[0] if name.endswith(("model.safetensors", "model.onnx")))
found = {
    "again": [said(doc) for doc in again.pipe(texts)],
    "disk": [said(doc) for doc in spacy.load(sys.argv[3]).pipe(texts)],
    "part": [said(doc) for doc in part.pipe(texts)],
    "other": [said(doc) for doc in other.pipe(texts)],
}
wrong = []
nlp.set_error_handler(lambda name, pipe, docs, error: wrong.append(name))
nlp.get_pipe("ner").cfg["labels"] = []
kept = len(list(nlp.pipe(texts)))
print(json.dumps({
    **found, "files": files[0] == files[1], "alike": alike, "wrong": wrong, "kept": kept, "loaded": loaded(),
}))
"""


def test_it_is_saved_sourced_and_loaded_in_part(texts, tmp_path):
    expected = [said(doc) for doc in spacy.load(texts / "exported").pipe(TEXTS)]  # noqa: F821
    ours = without_torch(KEPT, texts / "exported", json.dumps(TEXTS), tmp_path / "again")
    assert_near(ours["again"], expected)
    assert_near(ours["disk"], expected)
    for one, other, whole in zip(ours["part"], ours["other"], expected, strict=True):
        assert_near(one["ents"], whole["ents"])
        assert_near(other["ents"], whole["ents"])
        assert one["cats"] == other["cats"] == {}
    assert (ours["files"], ours["alike"], ours["loaded"]) == (True, True, [])
    n_with_entities = sum(bool(one["ents"]) for one in expected)
    assert set(ours["wrong"]) == {"ner"}
    assert ours["kept"] <= len(TEXTS) - min(1, n_with_entities)


REFUSED = """
from spacy.training import Example
def error_of(action):
    try:
        action()
    except Exception as error:
        return [type(error).__name__, str(error)]
nlp = spacy.load(sys.argv[1])
golds = [Example.from_dict(nlp.make_doc("Anna"), {"entities": [(0, 4, "PERSON")]})]
print(json.dumps([
    error_of(lambda: spacy.load(sys.argv[2])),
    error_of(lambda: nlp.update(golds)),
    error_of(nlp.resume_training),
    error_of(lambda: nlp.get_pipe("ner").add_label("NEW")),
    error_of(lambda: nlp.get_pipe("ner").initialize(lambda: golds, nlp=nlp)),
    error_of(lambda: spacy.blank("en").add_pipe("bertft_encoder").initialize(lambda: golds)),
    error_of(lambda: spacy.blank("en").add_pipe("bertft_mlm")(nlp.make_doc("[MASK]"))),
]))
"""


def test_what_needs_torch_says_in_one_line_what_to_install(texts):
    errors = without_torch(REFUSED, texts / "exported", texts / "trained")
    for error in errors:
        assert error is not None
        kind, message = error
        assert kind == "ConfigError"
        assert "needs torch and transformers, which are not installed" in message
        assert "pip install spacy-bertft (from a checkout" in message
        assert "\n" not in message


def test_a_command_that_needs_torch_says_so_too(texts, tmp_path):
    code = "\nfrom spacy_bertft.cli import app\nsys.argv = ['bertft', *sys.argv[1:]]\napp()\n"
    command = [sys.executable, "-W", "ignore", "-c", BLOCKED + code]
    export_it = [*command, "export", str(texts / "trained"), str(tmp_path / "out")]
    run = subprocess.run(export_it, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "needs torch and transformers" in run.stderr
    assert "Traceback" not in run.stderr
