"""The encoder component: who holds features, how long, and what can be asked of it."""

from __future__ import annotations

import gc
import subprocess
import sys
import traceback
import weakref
from pathlib import Path

import numpy as np
import pytest
import spacy
from pipelines import HEADS, TEXTS, annotations, blank, examples, initialized, trained

from spacy_bertft import compat
from spacy_bertft.components import feature_store, streams
from spacy_bertft.errors import ConfigError

CONFIG = Path(__file__).parents[2] / "configs/ner.cfg"

pytestmark = pytest.mark.touches_transformers


def _held(doc):
    return feature_store.find(doc, "encoder") is not None


def test_features_go_when_the_last_head_has_read_them(tiny_bert):
    nlp = initialized(tiny_bert)
    docs = list(nlp.pipe(TEXTS))
    assert not any(map(_held, docs))


def test_features_stay_while_a_head_has_still_to_read_them(tiny_bert):
    nlp = initialized(tiny_bert)
    doc = nlp.make_doc(TEXTS[0])
    encoder, ner, textcat = (nlp.get_pipe(name) for name in ("encoder", *HEADS))
    encoder(doc)
    ner(doc)
    assert _held(doc)
    textcat(doc)
    assert not _held(doc)


def test_features_are_not_kept_for_a_disabled_head(tiny_bert):
    nlp = initialized(tiny_bert)
    with nlp.select_pipes(disable="textcat"):
        docs = list(nlp.pipe(TEXTS))
    assert not any(map(_held, docs))
    assert not docs[0].cats


def test_features_that_nobody_read_die_with_their_doc(tiny_bert):
    nlp = initialized(tiny_bert)
    doc = next(nlp.pipe([TEXTS[0]], disable=["textcat"]))
    hidden = weakref.ref(feature_store.find(doc, "encoder").features.hidden)
    del doc
    gc.collect()
    assert hidden() is None


def test_keep_features_keeps_them_with_the_doc(tiny_bert):
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(tiny_bert)}
    nlp.add_pipe("bertft_encoder", name="encoder", config={"model": model, "keep_features": True})
    nlp.initialize()
    docs = list(nlp.pipe(TEXTS))
    features = nlp.get_pipe("encoder").features(docs[1:3])
    assert features.token_counts.tolist() == [len(docs[1]), len(docs[2])]
    assert all(map(_held, docs))
    assert not docs[0].user_data


def test_features_of_training_are_let_go(tiny_bert):
    nlp = initialized(tiny_bert)
    egs = examples(nlp)
    nlp.update(egs, sgd=False)
    nlp.get_pipe("encoder").settle()
    assert len(feature_store._published) == 0


def test_doc_tensor_and_similarity_come_from_the_encoder_on_request(tiny_bert):
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(tiny_bert)}
    nlp.add_pipe("bertft_encoder", name="encoder", config={"model": model, "set_tensor": True})
    nlp.initialize()
    doc, other = nlp.pipe(["Anna lives  in Berlin", "Bob"])
    assert doc.tensor.shape == (len(doc), 32)
    np.testing.assert_allclose(doc.vector, doc.tensor.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(doc[0].vector, doc.tensor[0], rtol=1e-5)
    assert doc.similarity(doc) == pytest.approx(1.0, abs=1e-5)
    assert -1.0 <= doc.similarity(other) < 1.0
    assert doc[0].similarity(doc[0]) == pytest.approx(1.0, abs=1e-5)
    assert doc[:2].similarity(doc[:2]) == pytest.approx(1.0, abs=1e-5)
    white_space = next(token for token in doc if token.is_space)
    assert not white_space.vector.any()
    assert white_space.similarity(doc[0]) == 0.0


def test_doc_tensor_is_left_alone_by_default(tiny_bert):
    assert initialized(tiny_bert)(TEXTS[0]).tensor.size == 0


def test_without_its_encoder_a_head_still_finds_features(tiny_bert):
    nlp = trained(tiny_bert)
    expected = annotations(nlp(TEXTS[1]))
    with nlp.select_pipes(disable="encoder"):
        assert annotations(nlp(TEXTS[1])) == expected
    with nlp.select_pipes(enable=["ner"]):
        assert annotations(nlp(TEXTS[1])) == (expected[0], {})


def test_tokens_changed_between_encoder_and_head_are_an_error(tiny_bert):
    nlp = initialized(tiny_bert)

    @spacy.Language.component("merge_first_two")
    def merge(doc):
        with doc.retokenize() as retokenizer:
            retokenizer.merge(doc[:2])
        return doc

    nlp.add_pipe("merge_first_two", after="encoder")
    with pytest.raises(ConfigError, match="changes the tokens"):
        nlp(TEXTS[0])


def test_a_pipeline_without_weights_says_how_to_get_them(tiny_bert):
    nlp = blank(tiny_bert)
    with pytest.raises(ConfigError, match=r"'encoder' has no weights yet.*nlp\.initialize\(\)"):
        nlp("A text")


def test_a_head_without_weights_says_how_to_get_them(tiny_bert):
    nlp = initialized(tiny_bert)
    nlp.add_pipe("bertft_ner", name="new")
    with pytest.raises(ConfigError, match=r"'new' has no weights yet"):
        nlp("A text")


def test_two_encoders_each_with_its_head(tiny_bert, tiny_encoder):
    nlp = blank(tiny_bert, {"ner": "bertft_ner"})
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(tiny_encoder("electra"))}
    nlp.add_pipe("bertft_encoder", name="second", config={"model": model})
    nlp.add_pipe("bertft_textcat", name="near")
    nlp.add_pipe("bertft_textcat", name="far", config={"encoder": "encoder"})
    nlp.initialize(lambda: examples(nlp))
    before = {name: nlp.get_pipe(name).encoder.state_dict() for name in ("encoder", "second")}
    before = {name: {key: value.clone() for key, value in state.items()} for name, state in before.items()}
    assert nlp.get_pipe("encoder").listening_components == ["ner", "far"]
    assert nlp.get_pipe("second").listening_components == ["near"]
    optimizer = nlp.create_optimizer()
    nlp.update(examples(nlp), sgd=optimizer)
    docs = list(nlp.pipe(TEXTS))
    assert not any(feature_store.find(doc, None) for doc in docs)
    for name, state in before.items():
        after = nlp.get_pipe(name).encoder.state_dict()
        assert any(not value.equal(after[key]) for key, value in state.items())


def test_a_named_encoder_that_is_not_there_is_an_error(tiny_bert):
    nlp = blank(tiny_bert, {})
    nlp.add_pipe("bertft_ner", name="ner", config={"encoder": "big"})
    with pytest.raises(ConfigError, match="needs an encoder named 'big'"):
        nlp.initialize(lambda: examples(nlp))


def test_a_long_text_among_short_ones_comes_back_in_order(tiny_bert):
    nlp = trained(tiny_bert)
    texts = [TEXTS[0], "Anna lives in Berlin . " * 500, TEXTS[1]]
    docs = list(nlp.pipe(texts, batch_size=2))
    assert [doc.text for doc in docs] == texts
    assert annotations(docs[2]) == annotations(nlp(TEXTS[1]))
    assert max(ent.end for ent in docs[1].ents) > 2400


def test_a_long_stream_gives_memory_back(tiny_bert, monkeypatch):
    nlp = initialized(tiny_bert)
    given, counts = [], []
    monkeypatch.setattr(compat, "give_back_memory", lambda: given.append("all"))
    monkeypatch.setattr(streams, "_TRIM_EVERY", 5)
    for _ in range(5):  # short streams count together
        list(nlp.pipe(TEXTS[:2]))
        counts.append(len(given))
    assert counts == [0, 0, 1, 1, 1]


@pytest.mark.skipif(compat._malloc_trim() is None, reason="only glibc is asked")
def test_memory_goes_back_to_the_system(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(GIVE_BACK, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before - 30_000  # KiB


GIVE_BACK = """
import numpy as np
from pathlib import Path
from spacy_bertft import compat

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("VmRSS"))

held = [np.ones(1000) for _ in range(20000)]  # 8 KB each: too small for pages of their own
kept = held[::1000]
last = np.ones(1000)
del held
print(resident())
compat.give_back_memory()
print(resident())
"""


def test_few_frames_lie_between_the_pipe_and_a_product(tiny_bert, monkeypatch):
    stacks = []
    fast_linear = compat.fast_linear

    def watched(*args, **kwargs):
        product = fast_linear(*args, **kwargs)

        def run(rows):
            stacks.append([frame.name for frame in traceback.extract_stack()])
            return product(rows)

        return run

    monkeypatch.setattr(compat, "fast_linear", watched)
    nlp = initialized(tiny_bert)
    pipe = nlp.get_pipe("encoder")
    list(pipe.pipe([nlp.make_doc(text) for text in TEXTS]))
    below = stacks[0][stacks[0].index("pipe") :]
    assert len(below) <= 10, below


def test_the_name_of_an_encoder_in_the_wrong_place_is_an_error():
    """As in `spacy train … --components.encoder.name bert-base-cased`, which trained the default encoder."""
    config = spacy.util.load_config(CONFIG, overrides={"components.encoder.name": "bert-base-cased"})
    with pytest.warns(UserWarning, match="W119"):
        nlp = spacy.util.load_model_from_config(config)
    with pytest.raises(ConfigError, match=r"line: --components\.encoder\.model\.name bert-base-cased"):
        nlp.get_pipe("encoder").initialize(lambda: [], nlp=nlp)
