"""Learning from another encoder on raw text: the losses, what fits together, and whole runs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from encoders import rewrite
from pretraining_runs import StoppedError, curve, same, weights, write_corpus
from tiny import make_encoder
from transformers import AutoModel, AutoTokenizer

from spacy_bertft.encoder.loading import load
from spacy_bertft.encoder.masked_lm import Batch, load_masked
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.pretraining.adapt import adapt
from spacy_bertft.jobs.pretraining.config import ObjectiveSettings, TeacherSettings, check_settings
from spacy_bertft.jobs.pretraining.teacher import Teacher, teaching_layers
from spacy_bertft.types import Packed

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

HOW = EncoderSettings(device="cpu", precision="float32", window=32, overlap=0)
LENGTHS = (9, 7, 7, 4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Two with the same tokenizer, and one with another."""
    folder = tmp_path_factory.mktemp("encoders")
    return {
        "one": make_encoder(folder / "one", "bert-uncased"),
        "two": make_encoder(folder / "two", "bert-uncased", initializer_range=0.3),
        "cased": make_encoder(folder / "cased", "bert-cased"),
    }


def batch(n_hidden=0):
    generator = np.random.default_rng(0)
    lengths = np.array(LENGTHS)
    ids = generator.integers(5, 60, lengths.sum())
    rows = np.arange(n_hidden)
    positions = np.concatenate([np.arange(length) for length in LENGTHS])
    corrupted = ids.copy()
    corrupted[rows] = 4
    return Batch(Packed(corrupted, positions, lengths), rows, ids[rows], None), ids


def losses(student, teacher, made, **settings):
    model = load_masked(str(student), HOW).eval()
    one = Teacher(load(str(teacher), HOW), model, TeacherSettings(name="teacher", **settings))
    with torch.no_grad():
        return float(one.loss(made, model.encoder.engine().layer_rows(made.packed)))


@pytest.mark.parametrize("settings", [{"rows": 1.0}, {"rows": 0.0, "relations": 1.0, "relation_heads": 4}])
def test_an_encoder_has_least_to_learn_from_itself(encoders, settings):
    alone = losses(encoders["one"], encoders["one"], batch()[0], **settings)
    if "relations" in settings:
        assert alone == pytest.approx(0.0, abs=1e-4)
    assert losses(encoders["one"], encoders["one"], batch(5)[0], **settings) > alone + 0.01, "it reads the whole text"
    assert losses(encoders["two"], encoders["one"], batch()[0], **settings) > alone + 0.01


def hidden_states(folder, ids):
    """Those of transformers' model, the embeddings first, and its queries, keys and values of the highest layer."""
    model = AutoModel.from_pretrained(folder).eval()
    self_attention = model.encoder.layer[-1].attention.self
    ends = np.cumsum(LENGTHS)
    states, related = [], []
    for end, length in zip(ends, LENGTHS, strict=True):
        made = model(torch.from_numpy(ids[end - length : end])[None], output_hidden_states=True).hidden_states
        states.append([rows[0] for rows in made])
        related.append([getattr(self_attention, name)(made[-2])[0] for name in ("query", "key", "value")])
    return states, related


def test_the_loss_on_rows_is_the_share_of_variance_that_is_not_explained(encoders):
    made, ids = batch()
    with torch.no_grad():
        found = [
            [torch.cat(rows) for rows in zip(*hidden_states(encoders[name], ids)[0], strict=True)]
            for name in ("two", "one")
        ]
    expected = [
        ((own - theirs / ((theirs - theirs.mean(dim=0)) ** 2).mean().sqrt()) ** 2).mean()
        for own, theirs in zip(*found, strict=True)
    ]
    value = losses(encoders["two"], encoders["one"], made, rows=3.0)
    assert value == pytest.approx(3 * float(torch.stack(expected).mean()) * len(ids), rel=1e-4)


def test_the_loss_on_relations_is_that_of_minilm(encoders):
    """Wang et al., 2021, equations 3 and 4."""
    made, ids = batch()
    heads, total = 4, 0.0
    with torch.no_grad():
        own, theirs = (hidden_states(encoders[name], ids)[1] for name in ("two", "one"))

        def relations(rows):
            parts = rows.view(len(rows), heads, -1).transpose(0, 1)
            return (parts @ parts.transpose(1, 2) / parts.shape[-1] ** 0.5).softmax(dim=-1)

        for window in zip(own, theirs, strict=True):
            for one, other in zip(*window, strict=True):
                p, q = relations(other), relations(one)
                total += float((p * (p.log() - q.log())).sum())
    value = losses(encoders["two"], encoders["one"], made, rows=0.0, relations=2.0, relation_heads=heads)
    assert value == pytest.approx(2 * total / (3 * heads), rel=1e-3)


@pytest.mark.parametrize(
    ("depth", "student", "layers", "expected"),
    [(6, 3, None, [2, 4, 6]), (6, 4, None, [2, 3, 5, 6]), (2, 2, None, [1, 2]), (6, 2, [1, 6], [1, 6])],
)
def test_layers_are_spaced_evenly_or_chosen(depth, student, layers, expected):
    assert teaching_layers(depth, student, layers) == expected


@pytest.mark.parametrize("layers", [[1], [0, 2], [1, 7]])
def test_layers_that_the_teacher_does_not_have_are_an_error(layers):
    with pytest.raises(ConfigError, match=r"teacher.layers is .* such as \[3, 6\]"):
        teaching_layers(6, 2, layers)


def settings(corpus, teacher, *, encoder=None, teaching=None, **training):
    training = {"steps": 12, "batch_size": 8, "window": 32, "learn_rate": 2e-3, "warmup_steps": 2, "device": "cpu",
                "evaluate_every": 6, "save_every": 4, "dropout": 0.0, **training}  # fmt: skip
    return check_settings(
        {
            "corpus": {"paths": [str(corpus)], "held_out": 0.05},
            "encoder": encoder or {"name": None, "layers": 1, "width": 64, "embedding_width": 16, "positions": 64},
            "teacher": {"name": str(teacher), **(teaching or {})},
            "training": training,
        },
        "test",
    )


@pytest.mark.parametrize("teaching", [{}, {"rows": 0.0, "relations": 1.0, "relation_heads": 4}])
def test_a_new_encoder_learns_from_its_teacher(corpus, encoders, tmp_path, teaching):
    encoder = {"name": None, "layers": 2, "width": 64, "positions": 64}
    result = adapt(settings(corpus, encoders["one"], encoder=encoder, teaching=teaching, steps=60), tmp_path / "out")
    rows = curve(tmp_path / "out")
    assert float(rows[-1]["teacher_loss"]) < 0.7 * float(rows[1]["teacher_loss"])
    assert result.after.held_out_loss < result.before.held_out_loss
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert (config["hidden_size"], config["num_hidden_layers"]) == (64, 2)
    student, teacher = load(str(tmp_path / "out"), HOW), load(str(encoders["one"]), HOW)
    assert student.tokenizer.get_vocab() == teacher.tokenizer.get_vocab()
    assert not [name for name in weights(tmp_path / "out") if "teacher" in name], "the map between widths is left out"


def test_the_tokenizer_is_the_teachers_without_its_lengths(corpus, encoders, tmp_path):
    source, folder = encoders["one"], tmp_path / "teacher"
    shutil.copytree(source, folder)
    rewrite(
        folder / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0},
    )
    rewrite(folder / "tokenizer_config.json", model_max_length=9, max_length=9, truncation_strategy="longest_first")
    adapt(settings(corpus, folder, steps=1, window=9), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.model_max_length == 64
    assert len(tokenizer("anna " * 20)["input_ids"]) == 22
    saved = json.loads((tmp_path / "out/tokenizer_config.json").read_text(encoding="utf-8"))
    assert not {"max_length", "truncation_strategy"} & saved.keys()


def test_narrow_embeddings_are_widened(corpus, encoders, tmp_path):
    adapt(settings(corpus, encoders["one"], steps=3), tmp_path / "out")
    saved = weights(tmp_path / "out")
    assert saved["electra.embeddings.word_embeddings.weight"].shape[1] == 16
    assert load(str(tmp_path / "out"), HOW).width == 64


def test_only_narrower_embeddings_have_no_head_for_next_sentences(corpus, encoders, tmp_path):
    def wanted(embedding_width):
        encoder = {"name": None, "layers": 1, "width": 64, "embedding_width": embedding_width, "positions": 64}
        found = settings(corpus, encoders["one"], encoder=encoder, steps=1)
        return found.model_copy(update={"objective": ObjectiveSettings(next_sentence=True)})

    adapt(wanted(64), tmp_path / "out")
    with pytest.raises(ConfigError, match="embedding_width has no head for it"):
        adapt(wanted(16), tmp_path / "narrow")


def test_embeddings_learn_all_subwords_before_any_text(encoders):
    model = load_masked(str(encoders["two"]), HOW)
    before = {name: weight.clone() for name, weight in model.model.named_parameters()}
    one = load(str(encoders["one"]), HOW)

    def unexplained():
        n_subwords, n_places = one.tokenizer.get_vocab_size(), 2 * HOW.window
        ids = np.repeat(np.arange(n_subwords), n_places)
        every = Packed(ids, np.tile(np.arange(n_places), n_subwords), np.ones_like(ids))
        with torch.no_grad():
            own, target = (encoder.engine().layer_rows(every, 0)[0] for encoder in (model.encoder, one))
        return float(((own - target / target.var(dim=0, correction=0).mean().sqrt()) ** 2).mean())

    assert unexplained() > 0.5
    last = Teacher(one, model, TeacherSettings(name="one", embedding_steps=300)).teach_embeddings(0)
    assert unexplained() == pytest.approx(last, abs=0.02), "positions after the window of the training are learned too"
    assert last < 0.1
    changed = {name for name, weight in model.model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all("embeddings" in name for name in changed)


def test_the_embeddings_of_an_encoder_that_exists_are_not_learned_anew(corpus, encoders, tmp_path):
    found = []
    for number, steps in enumerate((0, 50)):
        teaching, encoder = {"embedding_steps": steps}, {"name": str(encoders["two"])}
        adapt(settings(corpus, encoders["one"], encoder=encoder, teaching=teaching, steps=1), tmp_path / str(number))
        found.append(weights(tmp_path / str(number)))
    assert same(*found)


def test_a_run_that_goes_on_ends_in_the_same_weights(corpus, encoders, tmp_path):
    whole = settings(corpus, encoders["one"], teaching={"relations": 1.0, "relation_heads": 4, "embedding_steps": 3},
                     encoder={"name": None, "layers": 2, "width": 64, "positions": 64})  # fmt: skip
    adapt(whole, tmp_path / "whole")

    def stop(done):
        if done.step == 9:
            raise StoppedError

    with pytest.raises(StoppedError):
        adapt(whole, tmp_path / "parts", progress=stop)
    adapt(whole, tmp_path / "parts", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.parametrize(
    ("encoder", "teaching", "training", "message"),
    [
        ({"name": "cased"}, {}, {}, "have different tokenizers"),
        (None, {"layers": [1, 2]}, {}, "teacher.layers is"),
        (None, {"relations": 1.0, "relation_heads": 4}, {}, "at least two layers"),
        ({"name": "two"}, {"relations": 1.0, "relation_heads": 5}, {}, "expected a divisor of the teacher's width, 32"),
    ],
)
def test_what_does_not_fit_is_said(corpus, encoders, tmp_path, encoder, teaching, training, message):
    chosen = None if encoder is None else {"name": str(encoders[encoder["name"]])}
    with pytest.raises(ConfigError, match=message):
        adapt(settings(corpus, encoders["one"], encoder=chosen, teaching=teaching, **training), tmp_path / "out")
