"""Names behind `._.` that another package took first."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import spacy
from spacy.tokens import Span

from spacy_bertft.components.extensions import register
from spacy_bertft.components.spans import set_scored_spans


@pytest.fixture
def taken():
    """A name of somebody else's."""
    Span.set_extension("taken_before", getter=json.dumps)
    yield "taken_before"
    for name in ("taken_before", "bertft_taken_before"):
        if Span.has_extension(name):
            Span.remove_extension(name)


def ours(span):
    return "ours"


def test_a_name_that_is_taken_stays_with_its_owner_and_ours_has_another(taken):
    with pytest.warns(
        UserWarning, match=r"Span\._\.taken_before was already registered by .*Read \._\.bertft_taken_before"
    ):
        register(Span, taken, ours)
    span = spacy.blank("en")("a")[0:1]
    assert Span.get_extension(taken)[2] is json.dumps
    assert span._.bertft_taken_before == "ours"


def test_a_default_value_of_somebody_else_s_is_told_from_ours():
    Span.set_extension("with_default", default=0.0)
    try:
        with pytest.warns(UserWarning, match="already registered by another package"):
            register(Span, "with_default", ours)
    finally:
        for name in ("with_default", "bertft_with_default"):
            Span.remove_extension(name)


def test_registering_twice_is_no_reason_to_warn():
    register(Span, "twice_ours", ours)
    register(Span, "twice_ours", ours)
    for name in ("twice_ours", "bertft_twice_ours"):
        Span.remove_extension(name)


def test_scores_have_both_names():
    doc = spacy.blank("en")("Anna")
    set_scored_spans(doc, "entities", [doc[0:1]], [0.5])
    assert doc[0:1]._.score == doc[0:1]._.bertft_score == 0.5


@pytest.mark.slow
def test_the_package_warns_when_it_finds_its_names_taken():
    code = """
import warnings
from spacy.tokens import Span
Span.set_extension("score", default=None)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import spacy_bertft.components.spans
print([str(one.message) for one in caught if "Span._.score" in str(one.message)])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Read ._.bertft_score instead" in found
