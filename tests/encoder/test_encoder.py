"""The encoder against transformers' own model run on each text alone; odd texts, settings, saving and loading."""

from __future__ import annotations

import copy
import shutil
import time
from functools import cache

import numpy as np
import pytest
import torch
from encoders import (
    CAN_PACK,
    CPU,
    LONG,
    MIXED,
    ODD,
    SENTENCE,
    TRANSFORMERS_5,
    assert_near,
    encoder_of,
    in_threads,
    plain_forward,
    rewrite,
    split,
    texts_of,
)
from tiny import FAMILIES, LIMIT, PACKED, WIDTH
from transformers import AutoModel, AutoTokenizer

from spacy_bertft import compat
from spacy_bertft.encoder.checkpoint import Checkpoint
from spacy_bertft.encoder.loading import load_saved
from spacy_bertft.encoder.pooling import token_vectors
from spacy_bertft.encoder.settings import EncoderSettings, resolve_device
from spacy_bertft.errors import ConfigError
from spacy_bertft.text.subwords import Texts
from spacy_bertft.text.windows import cut

pytestmark = pytest.mark.touches_transformers


class Spy:
    """How many subwords, padding included, each forward pass of an encoder takes."""

    def __init__(self, encoder):
        self.sizes = []
        self._engine = encoder.engine
        encoder.engine = self._watched

    def _watched(self):
        engine = self._engine()

        def run(packed):
            rows = len(packed.lengths) * packed.lengths.max() if engine.padded else len(packed.ids)
            self.sizes.append(int(rows))
            return engine(packed)

        run.padded, run.budget = engine.padded, engine.budget
        return run


# --- the same numbers as transformers


@pytest.mark.parametrize("batching", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_rows_equal_the_plain_model_on_each_text_alone(tiny_encoder, family, batching):
    if batching == "packed" and family not in CAN_PACK:
        pytest.skip(f"{family} is not packed under this transformers")
    folder = tiny_encoder(family)
    with torch.no_grad():
        features = encoder_of(folder, batching=batching)(texts_of(MIXED))
    expected = plain_forward(folder, MIXED)
    for rows, text in zip(split(features.hidden[features.rows], features.subword_counts), expected, strict=True):
        assert_near(rows, text[1:-1])
    assert_near(features.hidden[features.cls_rows], torch.stack([text[0] for text in expected]))


@pytest.mark.skipif(not TRANSFORMERS_5, reason="nothing is packed under transformers 4")
@pytest.mark.parametrize("family", PACKED)
def test_packed_gradients_equal_padded_ones(tiny_encoder, family):
    gradients = []
    for batching in ("packed", "padded"):
        encoder = encoder_of(tiny_encoder(family), batching=batching)
        features = encoder(texts_of([*MIXED, LONG]))
        rows = features.hidden[[*features.rows, *features.cls_rows]]
        weights = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
        (rows * weights).mean().backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    packed, padded = gradients
    assert packed.keys() == padded.keys()
    assert len(packed) > 10
    for name in packed:
        assert_near(packed[name], padded[name])


@pytest.mark.parametrize("batching", ["auto", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_subword_of_a_long_text_is_read_from_its_window_alone(tiny_encoder, family, batching):
    folder = tiny_encoder(family)
    encoder = encoder_of(folder, batching=batching)
    texts = [LONG, "a", LONG[:300], ""]
    with torch.no_grad():
        features = encoder(texts_of(texts))
    assert len(set(features.rows.tolist())) == len(features.rows) == features.subword_counts.sum()
    assert features.window_counts[0] >= 3
    model = AutoModel.from_pretrained(folder).eval()
    subwords = encoder.splitter.tokenize(texts)
    windows = cut(subwords.counts, size=encoder.window - encoder.n_special, overlap=encoder.overlap)
    specials = encoder.specials
    pieces = windows.pieces
    for start, end, keep, stop in zip(pieces.starts, pieces.ends, pieces.keep_starts, pieces.keep_ends, strict=True):
        ids = [*specials.prefix, *subwords.ids[start:end], *specials.suffix]
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([ids])).last_hidden_state[0, len(specials.prefix) :]
        assert_near(features.hidden[features.rows[keep:stop]], alone[keep - start : stop - start])


@pytest.mark.parametrize("family", ["modernbert"])
def test_local_attention_matters_in_these_windows(tiny_encoder, family):
    """Otherwise the comparisons above would not show a forgotten sliding window."""
    folder = tiny_encoder(family)
    local = plain_forward(folder, [SENTENCE])[0]
    model = AutoModel.from_pretrained(folder, local_attention=2 * LIMIT).eval()
    with torch.no_grad():
        everywhere = model(**AutoTokenizer.from_pretrained(folder)(SENTENCE, return_tensors="pt")).last_hidden_state[0]
    assert (local - everywhere).abs().max() > 0.01


def test_every_packed_family_is_compared():
    compared = {"bert" if family.startswith("bert") else family for family in PACKED}
    assert compared == compat.PACKED_FAMILIES


def test_roberta_positions_start_behind_the_padding(tiny_encoder):
    encoder = encoder_of(tiny_encoder("roberta"))
    assert encoder.first_position == 2
    assert encoder.window == LIMIT == encoder.model.config.max_position_embeddings - 2
    assert compat.first_position(encoder.model) == encoder.first_position


def test_bfloat16_stays_close_to_float32(tiny_bert):
    texts = texts_of([SENTENCE, "a"])
    with torch.no_grad():
        half = encoder_of(tiny_bert, precision="bfloat16")(texts).hidden
        full = encoder_of(tiny_bert)(texts).hidden
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.1


def test_gradients_of_bfloat16_are_float32_and_point_the_same_way(tiny_bert):
    gradients = {}
    for precision in ("bfloat16", "float32"):
        encoder = encoder_of(tiny_bert, precision=precision)
        encoder.train()
        torch.manual_seed(0)
        hidden = encoder(texts_of([SENTENCE, "a"])).hidden
        hidden.backward(torch.linspace(-1, 1, hidden.numel()).view(hidden.shape))
        found = [one.grad for one in encoder.parameters() if one.grad is not None]
        assert {one.dtype for one in (*found, *encoder.parameters())} == {torch.float32}
        gradients[precision] = torch.cat([one.flatten() for one in found])
    half, full = gradients["bfloat16"], gradients["float32"]
    assert not torch.equal(half, full)
    assert torch.cosine_similarity(half, full, dim=0) > 0.99


# --- memory


@pytest.mark.parametrize("batching", ["auto", "padded"])
@pytest.mark.parametrize("budget", [1, 50, 150, 1000])
def test_no_forward_takes_more_than_the_budget_or_one_window(tiny_bert, batching, budget):
    encoder = encoder_of(tiny_bert, batch_subwords=budget, batching=batching)
    spy = Spy(encoder)
    with torch.no_grad():
        features = encoder(texts_of([*MIXED, LONG]))
    assert max(spy.sizes) <= max(budget, encoder.window)
    if batching == "auto":
        assert sum(spy.sizes) == len(features.hidden)  # nothing padded


def test_a_text_of_100_000_tokens_gets_a_finite_vector_for_each(tiny_bert):
    words = [word for word in SENTENCE.split() for _ in range(8)] * 1100
    words = words[:100_000]
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    starts = ends - np.array([len(word) for word in words])
    encoder = encoder_of(tiny_bert)
    spy = Spy(encoder)
    with torch.no_grad():
        features = encoder(Texts([" ".join(words)], starts, ends, np.array([len(words)])))
        vectors = token_vectors(features, "first")
        assert max(spy.sizes) <= encoder.budget
    assert vectors.shape == (100_000, WIDTH)
    assert vectors.isfinite().all()
    assert features.token_subword_counts.min() >= 1


# --- odd texts


def owned_subwords(features):
    """Which subwords of its own text each token owns, for each text."""
    of_tokens = np.split(features.token_subwords, np.cumsum(features.token_subword_counts)[:-1])
    firsts = np.repeat(np.cumsum(features.subword_counts) - features.subword_counts, features.token_counts)
    return [(own - first).tolist() for own, first in zip(of_tokens, firsts, strict=True)]


def brute_force(encoder, texts):
    """The same by comparing each subword with each token."""
    owned, token = [], 0
    for text, n_tokens in zip(texts.texts, texts.token_counts, strict=True):
        subwords = encoder.splitter.tokenize([text])
        for place in range(token, token + n_tokens):
            first, behind = texts.token_starts[place], texts.token_ends[place]
            spans = enumerate(zip(subwords.starts.tolist(), subwords.ends.tolist(), strict=True))
            owned.append([number for number, (start, end) in spans if max(start, first) < min(end, behind)])
        token += n_tokens
    return owned


@pytest.mark.parametrize("family", FAMILIES)
def test_odd_texts_are_encoded_and_aligned(tiny_encoder, family):
    encoder = encoder_of(tiny_encoder(family))
    texts = texts_of([*ODD.values(), SENTENCE])
    with torch.no_grad():
        features = encoder(texts)
    assert features.hidden.isfinite().all()
    assert owned_subwords(features) == brute_force(encoder, texts)
    assert features.token_subword_counts[-texts.token_counts[-1] :].min() >= 1
    assert token_vectors(features, "mean").shape == (texts.token_counts.sum(), WIDTH)


@pytest.fixture(scope="module")
def once(tiny_encoder):
    """`once(family)`: an encoder that is loaded once; it is only read."""
    return cache(lambda family: encoder_of(tiny_encoder(family)))


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("family", ["bert-uncased", "roberta", "xlm-roberta", "deberta-v2"])
def test_an_odd_text_alone_gives_what_it_gives_among_others(once, family, odd):
    encoder = once(family)
    with torch.no_grad():
        alone = encoder(texts_of([ODD[odd]]))
        among = encoder(texts_of(["a", ODD[odd], SENTENCE]))
    assert_near(
        split(among.hidden[among.rows], among.subword_counts)[1],
        alone.hidden[alone.rows],
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_each_word_owns_the_subwords_of_its_own_letters(tiny_encoder, family):
    encoder = encoder_of(tiny_encoder(family))
    texts = texts_of(["Anna lives in Berlin"])
    features = encoder(texts)
    subwords = encoder.splitter.tokenize(texts.texts)
    covered = [
        texts.texts[0][subwords.starts[own[0]] : subwords.ends[own[-1]]].strip() for own in owned_subwords(features)
    ]
    assert covered == ["Anna", "lives", "in", "Berlin"]


@pytest.mark.skipif(not TRANSFORMERS_5, reason="nothing is packed under transformers 4")
@pytest.mark.parametrize("family", PACKED)
def test_packed_equals_padded_where_a_text_spells_a_special_subword(tiny_encoder, family):
    special = AutoTokenizer.from_pretrained(tiny_encoder(family))
    texts = texts_of([f"Anna {special.pad_token} lives {special.sep_token} in {special.mask_token} Berlin", "a"])
    with torch.no_grad():
        packed, padded = (encoder_of(tiny_encoder(family), batching=how)(texts) for how in ("packed", "padded"))
    assert_near(packed.hidden[packed.rows], padded.hidden[padded.rows])


def test_no_texts_give_no_rows(tiny_bert):
    features = encoder_of(tiny_bert)(texts_of([]))
    assert features.hidden.shape == (0, WIDTH)
    assert len(features.rows) == len(features.token_counts) == 0


# --- settings


def test_window_and_overlap_are_honoured(tiny_bert):
    encoder = encoder_of(tiny_bert, window=12, overlap=4)
    spy = Spy(encoder)
    counts = encoder(texts_of([LONG])).window_counts
    n_subwords = encoder.splitter.tokenize([LONG]).counts[0]
    assert counts.tolist() == [1 + -(-(n_subwords - 10) // 6)]  # 10 subwords in a window, 6 new in the next
    assert sum(spy.sizes) == 12 * counts[0]


def test_window_is_by_default_the_smaller_limit_of_model_and_tokenizer(tiny_bert, tmp_path):
    assert encoder_of(tiny_bert).window == LIMIT
    folder = shutil.copytree(tiny_bert, tmp_path / "limited")
    rewrite(folder / "tokenizer_config.json", model_max_length=20)
    assert encoder_of(folder).window == 20


def test_batching_auto_packs_where_it_can(tiny_encoder):
    assert [family for family in FAMILIES if encoder_of(tiny_encoder(family)).packed] == list(CAN_PACK)


def test_batching_packed_is_refused_where_it_is_not_possible(tiny_encoder):
    with pytest.raises(ConfigError, match=r'is "packed", but deberta-v2 .* padded\. Set batching = "auto"'):
        encoder_of(tiny_encoder("deberta-v2"), batching="packed")


@pytest.mark.parametrize("window", [-1, 0, 2, LIMIT + 1])
def test_impossible_window_is_refused(tiny_bert, window):
    message = rf"window is {window} subwords\. Expected more than its 2 .* at most {LIMIT}.* Set window"
    with pytest.raises(ConfigError, match=message):
        encoder_of(tiny_bert, window=window)


@pytest.mark.parametrize("overlap", [-1, 10])
def test_impossible_overlap_is_refused(tiny_bert, overlap):
    with pytest.raises(ConfigError, match=rf"overlap is {overlap} .*expected 0 <= overlap < 10\. Set a smaller"):
        encoder_of(tiny_bert, window=12, overlap=overlap)(texts_of(["a"]))


@pytest.mark.parametrize("budget", [-1, 0])
def test_impossible_budget_is_refused(tiny_bert, budget):
    with pytest.raises(ConfigError, match=rf"batch_subwords .*{budget}.*[Ee]xpected"):
        encoder_of(tiny_bert, batch_subwords=budget)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_missing_device_is_refused():
    with pytest.raises(ConfigError, match=r'device is "cuda", but PyTorch .* finds none here\. Set device = "auto"'):
        resolve_device("cuda")


def test_device_auto_follows_spacy(monkeypatch):
    monkeypatch.setattr(compat, "spacy_gpu", lambda: "cuda")
    assert resolve_device("auto").type == "cuda"


# --- saving


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_encoder_comes_back_the_same(tiny_encoder, tmp_path, family):
    encoder = encoder_of(tiny_encoder(family))
    encoder.save(tmp_path / "saved")
    again = encoder_of(tmp_path / "saved")
    state = encoder.state_dict()
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in again.state_dict().items())
    texts = [SENTENCE, *ODD.values()]
    assert encoder.splitter.tokenize(texts).ids.tolist() == again.splitter.tokenize(texts).ids.tolist()
    assert encoder.splitter.tokenize(texts).starts.tolist() == again.splitter.tokenize(texts).starts.tolist()
    with torch.no_grad():
        # Not to the bit: the weights lie elsewhere in memory, where the matrix product may go another way.
        assert_near(encoder(texts_of(texts)).hidden, again(texts_of(texts)).hidden)


@pytest.mark.parametrize("family", ["bert-uncased", "modernbert"])
def test_saved_folder_is_a_plain_hugging_face_one(tiny_encoder, tmp_path, family):
    folder = tmp_path / "saved"
    encoder_of(tiny_encoder(family)).save(folder)
    assert "bertft" not in (folder / "config.json").read_text(encoding="utf-8")
    assert not list(folder.glob("*.bin"))
    expected = plain_forward(tiny_encoder(family), MIXED)
    for found, rows in zip(plain_forward(folder, MIXED), expected, strict=True):
        assert_near(found, rows)


# --- threads that share an encoder


@pytest.mark.parametrize("settings", [{}, {"batching": "padded"}], ids=["fused", "transformers"])
def test_threads_that_start_together_get_the_results_of_one(settings, tiny_bert, tmp_path, monkeypatch):
    """The model and the engines are built at the first prediction, once."""
    encoder_of(tiny_bert).save(tmp_path)
    cold = [load_saved(tmp_path, EncoderSettings(**(CPU | settings))) for _ in range(2)]
    assert cold[0].loaded is None
    built = []
    build = Checkpoint.model

    def slowly(checkpoint):
        built.append(len(checkpoint.weights))
        time.sleep(0.2)  # the other threads arrive in the middle
        return build(checkpoint)

    expected = cold[0].predict(texts_of(MIXED)).hidden
    monkeypatch.setattr(Checkpoint, "model", slowly)
    for found in in_threads(lambda number: cold[1].predict(texts_of(MIXED)).hidden):
        assert_near(found, expected)
    assert len(built) == ("batching" in settings)


def test_threads_with_texts_of_their_own(tiny_bert):
    encoder = encoder_of(tiny_bert)
    texts = [[f"{text} {number}" for text in MIXED] for number in range(8)]
    expected = [encoder.predict(texts_of(own)).hidden for own in texts]

    def predict(number):
        return [encoder.predict(texts_of(texts[number])).hidden for _ in range(20)]

    for runs, one in zip(in_threads(predict), expected, strict=True):
        for found in runs:
            assert_near(found, one)


def test_copies_have_locks_of_their_own(tiny_bert):
    encoder = encoder_of(tiny_bert)
    twin = copy.deepcopy(encoder)
    with encoder._building, twin._building:
        assert twin._building is not encoder._building
    assert_near(twin.predict(texts_of(MIXED)).hidden, encoder.predict(texts_of(MIXED)).hidden)
