"""Which source a head reads."""

from __future__ import annotations

import pytest
from pipelines import blank, initialized

from spacy_bertft.components.source import EncoderSource
from spacy_bertft.components.upstream import Upstream
from spacy_bertft.errors import ConfigError

pytestmark = pytest.mark.touches_transformers


def test_without_a_transformer_it_is_the_linked_encoder(tiny_bert):
    nlp = initialized(tiny_bert)
    reads = nlp.get_pipe("ner").reads
    assert isinstance(reads.source, EncoderSource)
    assert reads.encoder is nlp.get_pipe("encoder")
    assert reads.layers == []
    assert reads.start(nlp, needs_segments=True)[0] == 32


def test_the_save_id_is_that_of_the_encoder(tiny_bert, tmp_path):
    nlp = initialized(tiny_bert)
    reads = nlp.get_pipe("ner").reads
    assert reads.save_id is None
    nlp.to_disk(tmp_path)
    assert reads.save_id == nlp.get_pipe("encoder").save_id != None  # noqa: E711


def test_a_head_without_any_source_says_what_it_needs(tiny_bert):
    head = blank(tiny_bert).get_pipe("ner")
    lonely = Upstream(head, None)
    assert lonely.encoder is lonely.save_id is None
    with pytest.raises(ConfigError, match="'ner' needs a bertft_encoder component before it"):
        lonely.start(None, needs_segments=False)
