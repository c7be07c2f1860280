"""Windows to learn on and to measure on, and batches of them."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import CORPUS

from spacy_bertft.encoder.loading import load
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import DataError
from spacy_bertft.jobs.pretraining.cache import build_cache
from spacy_bertft.jobs.pretraining.config import check_settings
from spacy_bertft.jobs.pretraining.corpus_windows import BatchMaker, split_windows

pytestmark = pytest.mark.touches_transformers


@pytest.fixture(scope="module")
def encoder(tiny_encoder):
    return load(str(tiny_encoder("bert-uncased")), EncoderSettings(device="cpu", window=16))


@pytest.fixture(scope="module")
def cache(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    (folder / "a.txt").write_text("\n\n".join("\n".join(CORPUS) for _ in range(4)), encoding="utf-8")
    return build_cache([folder / "a.txt"], encoder.tokenizer, folder / "cache")


def settings(seed=0, held_out=0.2, **objective):
    return check_settings(
        {
            "corpus": {"paths": ["a.txt"], "held_out": held_out},
            "objective": objective,
            "training": {"window": 16, "seed": seed},
        },
        "test",
    )


def spans(stretches):
    return set(zip(stretches.starts.tolist(), stretches.ends.tolist(), strict=True))


@pytest.mark.parametrize("next_sentence", [False, True])
def test_every_subword_is_learned_or_measured(cache, encoder, next_sentence):
    train, held_out = split_windows(cache, encoder, settings(next_sentence=next_sentence))
    assert len(held_out) == round(0.2 * (len(train) + len(held_out)))
    covered = sorted(number for start, end in spans(train) | spans(held_out) for number in range(start, end))
    assert covered == list(range(len(cache.ids)))


def test_the_split_is_drawn_by_the_seed(cache, encoder):
    first, again, other = (spans(split_windows(cache, encoder, settings(seed=seed))[1]) for seed in (0, 0, 1))
    assert first == again != other


def test_too_few_windows_are_a_clear_error(cache, encoder):
    with pytest.raises(DataError, match=r"The corpus gives \d+ windows of up to 16 subwords.*Add texts"):
        split_windows(cache, encoder, settings(held_out=0.9))


def subwords(batch):
    """The subwords of each window as they were, and where its segments end."""
    ids = batch.packed.ids.copy()
    ids[batch.rows] = batch.targets
    cuts = np.cumsum(batch.packed.lengths)[:-1]
    return [part.tolist() for part in np.split(ids, cuts)]


@pytest.mark.parametrize("budget", [16, 40, 10_000])
@pytest.mark.parametrize("next_sentence", [False, True])
def test_parts_of_a_batch_are_those_of_the_whole(cache, encoder, budget, next_sentence):
    wanted = settings(next_sentence=next_sentence)
    train, _ = split_windows(cache, encoder, wanted)
    chosen = np.arange(9)

    def make(batch_subwords):
        maker = BatchMaker(cache, encoder, wanted.objective, batch_subwords=batch_subwords)
        return maker.make(train, chosen, np.random.default_rng(3))

    parts = make(budget)
    assert (len(parts) > 1) == (budget < 1000)
    assert all(len(part.packed.ids) == part.packed.lengths.sum() for part in parts)
    windows = [window for part in parts for window in subwords(part)]
    (whole,) = make(10_000)
    assert sorted(windows) == sorted(subwords(whole))
    assert len(windows) == len(chosen)
    assert all((part.is_next is not None) == (part.packed.segments is not None) == next_sentence for part in parts)
    if next_sentence:
        pairs = {tuple(w): n for part in parts for w, n in zip(subwords(part), part.is_next.tolist(), strict=True)}
        assert pairs == dict(zip(map(tuple, subwords(whole)), whole.is_next.tolist(), strict=True))
    else:
        cls, sep = encoder.specials.prefix.tolist(), encoder.specials.suffix.tolist()
        plain = [[*cls, *cache.ids[start:end].tolist(), *sep] for start, end in sorted(spans(train))[:9]]
        assert sorted(windows) == sorted(plain)


def test_by_default_the_device_says_how_much_one_forward_takes(cache, encoder):
    wanted = settings()
    train, _ = split_windows(cache, encoder, wanted)
    parts = BatchMaker(cache, encoder, wanted.objective).make(train, np.arange(9), np.random.default_rng(3))
    assert len(parts) == 1
