"""The web service in docs/examples, asked by many clients at once."""

from __future__ import annotations

import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pipelines import TEXTS, trained

pytestmark = [pytest.mark.tools, pytest.mark.touches_transformers]

SERVICE = runpy.run_path(str(Path(__file__).parents[2] / "docs/examples/service.py"), run_name="service")


@pytest.fixture(scope="module")
def nlp(tiny_bert):
    return trained(tiny_bert)


@pytest.fixture(scope="module")
def client(nlp):
    with TestClient(SERVICE["service"](nlp)) as client:
        yield client


def test_it_is_up(client):
    assert client.get("/health").json() == {"status": "up"}


def test_clients_that_ask_at_once_get_what_the_pipeline_says(client, nlp):
    expected = {text: SERVICE["annotations"](nlp(text)) for text in TEXTS}
    assert expected[TEXTS[0]]["entities"][0]["label"] == "PERSON"

    def ask(number):
        texts = [TEXTS[(number + place) % len(TEXTS)] for place in range(1 + number % 3)]
        return texts, client.post("/annotate", json={"texts": texts}).json()

    with ThreadPoolExecutor(8) as pool:
        for texts, found in pool.map(ask, range(80)):
            for text, one in zip(texts, found, strict=True):
                assert one["categories"] == pytest.approx(expected[text]["categories"], abs=1e-4)
                for entity, known in zip(one["entities"], expected[text]["entities"], strict=True):
                    assert entity == known | {"score": pytest.approx(known["score"], abs=1e-4)}


@pytest.mark.parametrize("texts", [None, ["a"] * 257, ["a" * 100_001], [1]])
def test_requests_that_are_wrong_or_too_large_are_refused(client, texts):
    assert client.post("/annotate", json={"texts": texts}).status_code == 422
