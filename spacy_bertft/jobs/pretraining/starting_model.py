"""The model that a run starts with: a pretrained one, or a new one with a vocabulary learned from the corpus."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from spacy_bertft.encoder.checkpoint import CONFIG, TOKENIZER, TOKENIZER_CONFIG
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.loading import load
from spacy_bertft.encoder.masked_lm import MaskedModel, load_masked
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import ConfigError, EncoderError
from spacy_bertft.jobs.pretraining.config import Settings, TrainingSettings
from spacy_bertft.jobs.pretraining.from_scratch import SIZES, learn_vocabulary, new_model, tokenizer_files
from spacy_bertft.jobs.pretraining.texts import read_documents
from spacy_bertft.jobs.text_files import check_model
from spacy_bertft.jobs.writing import disk_error

# Settings of a tokenizer's class that say from where it was loaded, and how it was called last.
_ABOUT_LOADING = {"is_local", "local_files_only"}
_ABOUT_CALLS = {"max_length", "stride", "truncation_strategy", "pad_to_multiple_of", *_ABOUT_LOADING}


def starting_model(settings: Settings, note: Callable[[str], None], teacher: Encoder | None = None) -> MaskedModel:
    """Load or create the model in the settings. note: called with a line about anything unusual or slow.

    teacher: a new model gets its tokenizer.
    """
    how = _encoder_settings(settings.training)
    return _new(settings, how, note, teacher) if settings.encoder.name is None else _loaded(settings, how, note)


def load_teacher(settings: Settings) -> Encoder | None:
    """Load the encoder to learn from, if the settings name one."""
    wanted = settings.teacher
    if wanted.name is None:
        return None
    return load(wanted.name, _encoder_settings(settings.training), revision=wanted.revision)


def _encoder_settings(training: TrainingSettings) -> EncoderSettings:
    return EncoderSettings(
        device=training.device,
        precision=training.precision,
        window=training.window,
        overlap=0,
        batch_subwords=training.batch_subwords,
        gradient_checkpointing=training.gradient_checkpointing,
    )


def _loaded(settings: Settings, how: EncoderSettings, note: Callable[[str], None]) -> MaskedModel:
    wanted = settings.encoder
    assert wanted.name is not None
    check_model(wanted.name)
    try:
        model = load_masked(
            wanted.name,
            how,
            revision=wanted.revision,
            next_sentence=settings.objective.next_sentence,
            dropout=settings.training.dropout,
        )
    except EncoderError as error:
        if (cause := disk_error(error)) is None:
            raise
        raise ConfigError(
            f"The encoder {wanted.name!r} could not be read or stored: {cause}. Expected readable files, and room "
            "for them in the cache of the Hugging Face hub and the temporary folder. Check the permissions and the "
            "free space."
        ) from error
    if model.missing:
        names = ", ".join(model.missing[:4])
        note(f"{wanted.name} lacks {len(model.missing)} weights, which start at random: {names}")
    _forget_source(model.encoder)
    return model


def _forget_source(encoder: Encoder) -> None:
    """Drop what the tokenizer noted on loading, which would be saved with the result."""
    settings = json.loads(encoder.checkpoint.files.get(TOKENIZER_CONFIG, b"{}"))
    kept = {name: value for name, value in settings.items() if name not in _ABOUT_LOADING}
    if kept != settings:
        files = {**encoder.checkpoint.files, TOKENIZER_CONFIG: _to_bytes(kept)}
        encoder.checkpoint = replace(encoder.checkpoint, files=files)


def _new(settings: Settings, how: EncoderSettings, note: Callable[[str], None], teacher: Encoder | None) -> MaskedModel:
    wanted = settings.encoder
    layers, width = SIZES[wanted.size]
    width = wanted.width or width
    if wanted.embedding_width not in (None, width) and settings.objective.next_sentence:
        raise ConfigError(
            "next_sentence is on, but an encoder with encoder.embedding_width has no head for it. Expected one of the "
            "two. Set next_sentence = false, or embedding_width = null."
        )
    if teacher is None:
        vocabulary_size, files = _learned_tokenizer(settings, note)
    else:
        vocabulary_size = teacher.checkpoint.config["vocab_size"]
        files = _tokenizer_of(teacher, wanted.positions)
    plain, config = new_model(
        wanted.layers or layers,
        width,
        embedding_width=wanted.embedding_width,
        vocabulary_size=vocabulary_size,
        positions=wanted.positions,
        seed=settings.training.seed,
        next_sentence=settings.objective.next_sentence,
        dropout=settings.training.dropout,
    )
    return MaskedModel(plain, {**files, **config}, how)


def _tokenizer_of(teacher: Encoder, positions: int) -> dict[str, bytes]:
    """The files of a teacher's tokenizer, without the lengths that texts were cut and filled up to for the teacher."""
    files = {name: content for name, content in teacher.checkpoint.files.items() if name != CONFIG}
    tokenizer, settings = (json.loads(files.get(name, b"{}")) for name in (TOKENIZER, TOKENIZER_CONFIG))
    tokenizer.update(truncation=None, padding=None)
    settings = {name: value for name, value in settings.items() if name not in _ABOUT_CALLS}
    settings["model_max_length"] = positions
    return files | {
        name: _to_bytes(content) for name, content in ((TOKENIZER, tokenizer), (TOKENIZER_CONFIG, settings))
    }


def _to_bytes(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _learned_tokenizer(settings: Settings, note: Callable[[str], None]) -> tuple[int, dict[str, bytes]]:
    """The size of a vocabulary learned from the corpus, and the tokenizer's files."""
    wanted = settings.encoder
    note(f"learning a vocabulary of {wanted.vocabulary:,} subwords")
    documents = read_documents(settings.corpus.files(), text_key=settings.corpus.text_key)
    texts = (text for document in documents for text in document)
    vocabulary = learn_vocabulary(texts, wanted.vocabulary, lowercase=wanted.lowercase)
    return len(vocabulary), tokenizer_files(vocabulary, lowercase=wanted.lowercase, positions=wanted.positions)
