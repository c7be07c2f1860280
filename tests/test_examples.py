"""The examples in docs/examples that need no package of their own. tests/tools has the others."""

from __future__ import annotations

import json
import runpy
import threading
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import spacy
from pipelines import ANNOTATED, trained

pytestmark = pytest.mark.touches_transformers

LABEL_STUDIO = runpy.run_path(str(Path(__file__).parents[1] / "docs/examples/label_studio_backend.py"))
INTERFACE = """<View>
  <Choices name="topic" toName="message"><Choice value="home"/><Choice value="work"/></Choices>
  <Labels name="names" toName="message"><Label value="PERSON"/><Label value="CITY"/></Labels>
  <Text name="message" value="$body"/>
</View>"""
TASKS = [{"id": number, "data": {"body": text}} for number, (text, _, _) in enumerate(ANNOTATED)]


@pytest.fixture(scope="module")
def pipeline(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples") / "pipeline"
    trained(tiny_bert).to_disk(folder)
    return folder


@pytest.fixture
def backend(pipeline):
    server = LABEL_STUDIO["Backend"](str(pipeline), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def ask(url, content=None):
    data = None if content is None else json.dumps(content).encode()
    with urlopen(Request(url, data)) as answer:
        return json.load(answer)


def test_label_studio_s_backend_fills_labels_and_choices(backend, pipeline):
    assert ask(f"{backend}/health")["status"] == "UP"
    version = ask(f"{backend}/setup", {"project": "1.1", "schema": INTERFACE})["model_version"]
    assert version == "en_pipeline-0.0.0"
    answered = ask(f"{backend}/predict", {"tasks": TASKS, "label_config": INTERFACE, "project": "1.1"})["results"]
    docs = list(spacy.load(pipeline).pipe(text for text, _, _ in ANNOTATED))
    for one, doc in zip(answered, docs, strict=True):
        topic, *names = one["result"]
        best = max(doc.cats, key=doc.cats.get)
        assert (topic["from_name"], topic["to_name"], topic["type"]) == ("topic", "message", "choices")
        assert topic["value"] == {"choices": [best]}
        assert {(name["from_name"], name["to_name"], name["type"]) for name in names} <= {
            ("names", "message", "labels")
        }
        assert [name["value"] for name in names] == [
            {"start": ent.start_char, "end": ent.end_char, "text": ent.text, "labels": [ent.label_]} for ent in doc.ents
        ]
        scores = [doc.cats[best], *(ent._.score for ent in doc.ents)]
        assert [result["score"] for result in one["result"]] == pytest.approx(scores, abs=1e-5)
        assert one["score"] == pytest.approx(min(scores), abs=1e-5)
        assert one["model_version"] == version
    assert any(len(one["result"]) > 2 for one in answered)


def test_it_fills_what_the_interface_has(pipeline):
    nlp = spacy.load(pipeline)
    interface = INTERFACE.replace("Choices", "Header")
    for one in LABEL_STUDIO["predictions"](nlp, "1", interface, TASKS):
        assert {result["type"] for result in one["result"]} <= {"labels"}
    nlp.disable_pipe("ner")
    (nothing,) = LABEL_STUDIO["predictions"](nlp, "1", interface, TASKS[:1])
    assert nothing == {"result": [], "score": 0.0, "model_version": "1"}
