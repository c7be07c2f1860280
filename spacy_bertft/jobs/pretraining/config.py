"""The validated settings of a pretraining run, as in configs/adapt.cfg."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from confection import Config
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from spacy_bertft.encoder.settings import Device
from spacy_bertft.engines.base import Precision
from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.pretraining.from_scratch import Size
from spacy_bertft.jobs.pretraining.masking import Draw
from spacy_bertft.jobs.pretraining.texts import text_files

_SAID = 500  # characters of an error to show: the file may be one long line of something else


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusSettings(_Section):
    """[corpus]"""

    paths: list[Path] = Field(min_length=1)
    exclude: list[str] = []  # patterns of file names in folders
    text_key: str = "text"
    join: bool = False  # neighbouring texts of a document in one window
    held_out: float = Field(default=0.01, gt=0, lt=1)  # fraction of the windows, used only for evaluation
    cache: Path | None = None  # None: in the output folder

    @field_validator("paths", "exclude", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def files(self) -> list[Path]:
        """The files to read."""
        return text_files(self.paths, exclude=self.exclude)


class EncoderSection(_Section):
    """[encoder]"""

    name: str | None = "bert-base-cased"  # None: from scratch
    revision: str = "main"
    size: Size = "mini"
    layers: int | None = Field(default=None, ge=1)  # None: as the size says
    width: int | None = Field(default=None, ge=64, multiple_of=64)
    embedding_width: int | None = Field(default=None, ge=8)  # None: the width
    vocabulary: int = Field(default=30522, ge=100)
    lowercase: bool = True
    positions: int = Field(default=512, ge=16)


class TeacherSettings(_Section):
    """[teacher]"""

    name: str | None = None  # None: no teacher
    revision: str = "main"
    layers: list[int] | None = None  # from 1, one for each of the student's; None: evenly spaced
    rows: float = Field(default=1.0, ge=0)  # factors of the losses on hidden rows and on relations
    relations: float = Field(default=0.0, ge=0)
    relation_heads: int = Field(default=12, ge=1)
    embedding_steps: int = Field(default=0, ge=0)  # on random subwords, before the texts


class ObjectiveSettings(_Section):
    """[objective]"""

    rate: float = Field(default=0.15, gt=0, lt=1)
    masked: float = Field(default=0.8, ge=0, le=1)
    random: float = Field(default=0.1, ge=0, le=1)
    whole_words: bool = False
    draw: Draw = "unigram"
    next_sentence: bool = False


class TrainingSettings(_Section):
    """[training]"""

    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=128, ge=1)  # windows per step
    window: int = Field(default=128, ge=4)  # subwords, including special tokens
    learn_rate: float = Field(default=1e-4, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    eps: float = Field(default=1e-6, gt=0)
    grad_clip: float = Field(default=1.0, ge=0)
    dropout: float | None = Field(default=None, ge=0, lt=1)  # None: as in the encoder's config
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: Device = "auto"
    precision: Precision = "auto"
    batch_subwords: int | None = Field(default=None, ge=1)  # per forward pass; None: by device
    gradient_checkpointing: bool = False
    evaluate_every: int = Field(default=500, ge=1)
    save_every: int = Field(default=500, ge=1)


class Settings(_Section):
    """All settings of a run."""

    corpus: CorpusSettings
    encoder: EncoderSection = EncoderSection()
    teacher: TeacherSettings = TeacherSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    training: TrainingSettings = TrainingSettings()


def read_settings(path: Path, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings of a config file. overrides: "training.steps" -> value, …"""
    if not path.is_file():
        found = "something that is not a regular file" if path.exists() else "no such file"
        raise ConfigError(f"{path}: found {found}; expected a config like configs/adapt.cfg; fix: correct the path")
    try:
        content = Config().from_disk(path, overrides=dict(overrides or {}), interpolate=True)
    except Exception as error:  # raised by configparser or confection
        said = " ".join(str(error)[:_SAID].split())
        raise ConfigError(
            f"{path}: found a config that can't be read ({said}); expected the format of "
            "configs/adapt.cfg; fix: correct the file"
        ) from error
    return check_settings(content, str(path))


def check_settings(content: Mapping[str, Any], where: str) -> Settings:
    """Validate the settings. Raises ConfigError with every wrong one."""
    try:
        return Settings.model_validate(dict(content))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc']))} = {one['input']!r} ({one['msg']})" for one in error.errors()
        )
        raise ConfigError(
            f"{where}: found {wrong}; expected the sections and settings of configs/adapt.cfg; fix: correct them"
        ) from None
