"""A machine-learning backend for Label Studio: predictions of a pipeline, with scores.

python label_studio_backend.py training/model-best --port 9090

In Label Studio: Settings of the project, Model, Connect Model, http://localhost:9090. It fills <Labels> with entities
and <Choices> with categories, whatever the tags are called.
"""

from __future__ import annotations

import argparse
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import Doc


def predictions(nlp: Language, version: str, config: str, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A prediction for each task, in Label Studio's format. config: the project's labeling interface, in XML."""
    interface = list(ElementTree.fromstring(config).iter())
    tags = [tag for tag in interface if tag.tag in ("Labels", "Choices")]
    key = next(tag.get("value", "") for tag in interface if tag.tag == "Text").lstrip("$")
    found = []
    for doc in nlp.pipe(task["data"][key] for task in tasks):
        result = [{**place(tag), **one} for tag in tags for one in results(doc, tag.tag)]
        # Label Studio can order tasks by their score: here, that of the least certain result.
        score = min((one["score"] for one in result), default=0.0)
        found.append({"result": result, "score": score, "model_version": version})
    return found


def place(tag: ElementTree.Element) -> dict[str, Any]:
    """Where a result belongs in the interface."""
    return {"from_name": tag.get("name"), "to_name": tag.get("toName"), "type": tag.tag.lower()}


def results(doc: Doc, kind: str) -> Iterator[dict[str, Any]]:
    """Entities for <Labels>, the best category for <Choices>."""
    if kind == "Labels":
        for ent in doc.ents:
            value = {"start": ent.start_char, "end": ent.end_char, "text": ent.text, "labels": [ent.label_]}
            yield {"value": value, "score": ent._.score or 0.0}
    elif doc.cats:
        best = max(doc.cats, key=doc.cats.__getitem__)
        yield {"value": {"choices": [best]}, "score": doc.cats[best]}


class Backend(ThreadingHTTPServer):
    """Answers Label Studio's requests: /health, /setup, /predict, and /webhook, which trains nothing here."""

    def __init__(self, pipeline: str, host: str, port: int) -> None:
        super().__init__((host, port), _Handler)
        self.nlp = spacy.load(pipeline)
        self.version = f"{self.nlp.meta['lang']}_{self.nlp.meta['name']}-{self.nlp.meta['version']}"


class _Handler(BaseHTTPRequestHandler):
    server: Backend

    def do_GET(self) -> None:
        self._send({"status": "UP", "model_class": "spacy-bertft"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.path.rstrip("/").endswith("/predict"):
            self._send(
                {"results": predictions(self.server.nlp, self.server.version, asked["label_config"], asked["tasks"])}
            )
        else:
            self._send({"model_version": self.server.version})

    def _send(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=9090)
    options = parser.parse_args()
    Backend(options.pipeline, options.host, options.port).serve_forever()
