"""One pipeline that many threads use at once gives each of them what it gives one thread."""

from __future__ import annotations

import random
import sys
import time
from threading import Event, get_ident

import pytest
import spacy
import torch
from encoders import in_threads
from pipelines import TEXTS, annotations, blank, blank_pair, examples, initialized, module_of, trained
from spacy.training import Example

from spacy_bertft import pair_doc
from spacy_bertft.components.feature_cache import FeatureCache
from spacy_bertft.engines import onnx
from spacy_bertft.export import export
from spacy_bertft.learning.shim import TorchShim, shim_of

pytestmark = pytest.mark.touches_transformers

THREADS = 8
HEADS = {
    "ner": "bertft_ner",
    "textcat": "bertft_textcat",
    "topics": "bertft_textcat_multilabel",
    "rating": "bertft_regression",
}
PAIR_HEADS = {"pair": "bertft_pair", "qa": "bertft_qa"}
# Words that no thread has seen before: each makes the vocabulary grow.
SHORT = [f"{text} {number}x{number}" for number in range(12) for text in TEXTS]
PAIRS = [f"Where is it {number}?\tIt is in {place} {number}y." for number in range(12) for place in ("Rome", "my home")]


@pytest.fixture(autouse=True)
def switch_often():
    """Let the interpreter switch between threads 500 times as often as by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def rated_examples(nlp):
    """Examples for all heads."""
    golds = examples(nlp)
    for number, gold in enumerate(golds):
        gold.reference._.value = float(number)
    return golds


def several_heads(encoder):
    nlp = blank(encoder, HEADS)
    torch.manual_seed(0)
    nlp.initialize(lambda: rated_examples(nlp))
    return nlp


@pytest.fixture(scope="module")
def saved(tiny_bert, tmp_path_factory):
    """Folders of pipelines by name."""
    root = tmp_path_factory.mktemp("threads")
    several_heads(tiny_bert).to_disk(root / "several")
    export(root / "several", root / "onnx")
    export(root / "several", root / "int8", int8=True)
    pairs = blank_pair(tiny_bert, PAIR_HEADS)
    gold = pair_doc(pairs, "Where is it?", "It is here.")
    gold.cats = {"same": 1.0, "different": 0.0}
    gold.spans["answers"] = [gold[7:8]]
    torch.manual_seed(0)
    pairs.initialize(lambda: [Example(pair_doc(pairs, "Where is it?", "It is here."), gold)])
    pairs.to_disk(root / "pairs")
    return {name: root / name for name in ("several", "onnx", "int8", "pairs")}


KINDS = {
    "fused": ("several", {}),
    "transformers": ("several", {"batching": "padded"}),
    "bfloat16": ("several", {"precision": "bfloat16"}),
    "onnx": ("onnx", {}),
    "int8": ("int8", {}),
    "pairs": ("pairs", {}),
}


def load(saved, kind):
    name, settings = KINDS[kind]
    config = {f"components.encoder.model.{key}": value for key, value in settings.items()}
    return spacy.load(saved[name], config=config), PAIRS if name == "pairs" else SHORT


def everything(doc):
    """All that our heads set, unrounded."""
    spans = {key: [(it.start, it.end, it.label_) for it in group] for key, group in doc.spans.items()}
    attrs = {key: {name: str(value) for name, value in group.attrs.items()} for key, group in doc.spans.items()}
    return doc.text, [(ent.start, ent.end, ent.label_) for ent in doc.ents], dict(doc.cats), spans, attrs


def of_streams(nlp, texts):
    return [everything(doc) for doc in nlp.pipe(texts, batch_size=8)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_warm_threads_get_what_one_thread_gets(saved, kind):
    """2,400 calls of each kind of engine, and streams at the same time."""
    nlp, texts = load(saved, kind)
    single = {text: everything(nlp(text)) for text in texts}
    stream = of_streams(nlp, texts)

    def work(number):
        draw = random.Random(number)
        for _ in range(400):
            text = draw.choice(texts)
            assert everything(nlp(text)) == single[text]

    def read(number):
        if number % 4 == 3:
            for _ in range(8):
                assert of_streams(nlp, texts) == stream
        else:
            work(number)

    in_threads(read)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_start_a_fresh_pipeline_together(saved, kind):
    nlp, texts = load(saved, kind)
    expected = {text: everything(nlp(text)) for text in texts}
    for round_ in range(15):
        fresh, _ = load(saved, kind)
        own = [texts[(round_ + number) % len(texts)] for number in range(THREADS)]
        found = in_threads(lambda number, nlp=fresh, own=own: everything(nlp(own[number])))
        assert found == [expected[text] for text in own]


# --- interleavings that are forced


def test_onnx_runtime_gets_one_session(saved, monkeypatch):
    nlp, texts = load(saved, "onnx")
    expected = everything(nlp(texts[0]))
    made, make = [], onnx._new_session

    def slowly(graph):
        made.append(get_ident())
        time.sleep(0.2)  # the other threads arrive in the middle
        return make(graph)

    monkeypatch.setattr(onnx, "_new_session", slowly)
    fresh, _ = load(saved, "onnx")
    assert in_threads(lambda number: everything(fresh(texts[0]))) == [expected] * THREADS
    assert len(made) == 1


def test_threads_that_predict_after_training_wait_for_the_step_that_is_due(tiny_bert, monkeypatch):
    def learned():
        nlp = several_heads(tiny_bert)
        optimizer = nlp.create_optimizer()
        optimizer.learn_rate = 1e-2
        torch.manual_seed(0)
        nlp.update(rated_examples(nlp), sgd=optimizer)  # leaves a step to the encoder
        return nlp

    expected = everything(learned()(TEXTS[0]))
    nlp = learned()
    steps, step = [], TorchShim.step

    def slowly(shim, settings):
        steps.append(shim.name)
        time.sleep(0.2)
        step(shim, settings)

    monkeypatch.setattr(TorchShim, "step", slowly)
    assert in_threads(lambda number: everything(nlp(TEXTS[0]))) == [expected] * THREADS
    assert steps == ["encoder"]


def test_a_head_is_used_when_all_of_it_has_been_moved(tiny_bert, monkeypatch):
    """The first parameter is there before the last."""
    nlp = initialized(tiny_bert, {"textcat": "bertft_textcat"})
    shim, module = shim_of(nlp.get_pipe("textcat").model), module_of(nlp, "textcat")
    begun, moved = Event(), []
    original = module.to

    def slowly(device):
        begun.set()
        time.sleep(0.2)
        moved.append(device)
        return original(device)

    monkeypatch.setattr(module, "to", slowly, raising=False)
    first = {True: torch.zeros(1), False: torch.zeros(1, device="meta")}  # before the move, and as soon as it begins
    monkeypatch.setattr(module, "parameters", lambda: iter([first[begun.is_set()]]))

    def move(number):
        shim.move(torch.device("cpu"))
        return len(moved)

    assert in_threads(move) == [1] * THREADS


class Slow:
    """A file that other threads may come to when one has found its place."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def seek(self, *place):
        found = self.file.seek(*place)
        time.sleep(0.001)
        return found


def test_the_cache_on_disk_is_read_and_written_by_one_thread_at_a_time(tiny_bert):
    nlp = initialized(tiny_bert, {"ner": "bertft_ner"})
    pipe = nlp.get_pipe("encoder")
    expected = {text: everything(nlp(text)) for text in SHORT}
    pipe._cache = FeatureCache(64, "disk")
    pipe._cache._file = Slow(pipe._cache._file)
    assert pipe._cache.fits(pipe.encoder)

    def read(number):
        own = [*SHORT[number * 3 :][:20], *SHORT[: number * 3][:20]]
        return [everything(nlp(text)) == expected[text] for _ in range(2) for text in own]

    assert all(map(all, in_threads(read)))


# --- what is not safe


def test_predicting_in_the_middle_of_an_update_warns(tiny_bert):
    nlp = trained(tiny_bert)
    golds = examples(nlp)
    nlp.get_pipe("encoder").update(golds)  # and before the heads are trained:
    with pytest.warns(UserWarning, match="while another one was training it"):
        in_threads(lambda number: nlp(TEXTS[0]), 1)


def test_training_in_one_thread_and_predicting_in_another_afterwards_does_not(tiny_bert):
    nlp = trained(tiny_bert)
    nlp.update(examples(nlp), sgd=nlp.create_optimizer())
    (doc,) = in_threads(lambda number: nlp(TEXTS[0]), 1)
    assert annotations(doc) == annotations(nlp(TEXTS[0]))
