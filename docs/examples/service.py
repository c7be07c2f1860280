"""A web service that gives texts entities and categories, with scores.

pip install fastapi uvicorn
OMP_NUM_THREADS=1 PIPELINE=training/model-best uvicorn --factory service:create --app-dir docs/examples

curl localhost:8000/annotate -H 'content-type: application/json' -d '{"texts": ["Anna lives in Berlin"]}'
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import spacy
from fastapi import FastAPI
from pydantic import BaseModel, Field
from spacy.language import Language
from spacy.tokens import Doc

Text = Annotated[str, Field(max_length=100_000)]  # a text takes memory and time in proportion to its length


class Request(BaseModel):
    """Texts to annotate."""

    texts: list[Text] = Field(max_length=256)


def create() -> FastAPI:
    """The service with the pipeline that the environment variable PIPELINE names."""
    return service(spacy.load(os.environ["PIPELINE"]))


def service(nlp: Language) -> FastAPI:
    """The service with a pipeline."""
    list(nlp.pipe(["A first text prepares the weights."]))  # before requests come, and before a server forks
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "up"}

    # Not async: FastAPI then calls it in a thread of its own, so that a request does not keep others from being
    # accepted. All threads share the pipeline.
    @app.post("/annotate")
    def annotate(request: Request) -> list[dict[str, Any]]:
        return [annotations(doc) for doc in nlp.pipe(request.texts)]

    return app


def annotations(doc: Doc) -> dict[str, Any]:
    """Entities and categories of a Doc, ready for JSON."""
    entities = [
        {"start": ent.start_char, "end": ent.end_char, "label": ent.label_, "score": ent._.score} for ent in doc.ents
    ]
    return {"entities": entities, "categories": doc.cats}
