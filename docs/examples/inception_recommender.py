"""An external recommender for INCEpTION: entities of a pipeline, with scores. It needs dkpro-cassis.

python inception_recommender.py training/model-best --port 5000

In INCEpTION: Settings of the project, Recommenders, an external recommender for the layer of named entities with the
remote URL http://localhost:5000.
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import spacy
from cassis import Cas, load_cas_from_xmi, load_typesystem
from spacy.language import Language
from spacy.tokens import Doc

TOKEN = "de.tudarmstadt.ukp.dkpro.core.api.segmentation.type.Token"


def recommend(nlp: Language, cas: Cas, layer: str, feature: str) -> None:
    """Add the entities to a document as predictions, on INCEpTION's own tokens."""
    tokens = cas.select(TOKEN)
    ends = [token.end for token in tokens]
    starts = [token.begin for token in tokens[1:]]
    spaces = [end < start for end, start in zip(ends, starts, strict=False)] + [False] * bool(tokens)
    doc = nlp(Doc(nlp.vocab, words=[token.get_covered_text() for token in tokens], spaces=spaces))
    kind = cas.typesystem.get_type(layer)
    with_scores = any(known.name == f"{feature}_score" for known in kind.all_features)
    for ent in doc.ents:
        values: dict[str, Any] = {feature: ent.label_, "inception_internal_predicted": True}
        if with_scores and ent._.score is not None:
            values[f"{feature}_score"] = ent._.score
        cas.add(kind(begin=tokens[ent.start].begin, end=tokens[ent.end - 1].end, **values))


class Recommender(ThreadingHTTPServer):
    """Answers INCEpTION's requests: …/predict, and …/train, which trains nothing here."""

    def __init__(self, pipeline: str, host: str, port: int) -> None:
        super().__init__((host, port), _Handler)
        self.nlp = spacy.load(pipeline)


class _Handler(BaseHTTPRequestHandler):
    server: Recommender

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.endswith("/predict"):
            self._send(204, b"")
            return
        asked = json.loads(body)
        cas = load_cas_from_xmi(asked["document"]["xmi"], load_typesystem(asked["typeSystem"]))
        recommend(self.server.nlp, cas, asked["metadata"]["layer"], asked["metadata"]["feature"])
        self._send(200, json.dumps({"document": cas.to_xmi()}).encode())

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args()
    Recommender(options.pipeline, options.host, options.port).serve_forever()
