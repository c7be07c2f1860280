"""The components of a student: what its teachers have, with another encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from spacy.language import Language

from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.head_pipe import HeadPipe
from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.recipes.choices import EncoderFacts
from spacy_bertft.jobs.recipes.tasks import Kind

_PREFIX = "bertft_"


@dataclass(frozen=True, slots=True)
class Parts:
    """What the config of a student takes from its teachers.

    nlp            [nlp]
    encoder        name and block of the encoder component
    blocks         [components.name] of all others
    heads          name and kind of each head
    frozen         components that are not trained
    score_weights  [training.score_weights]; empty: spaCy's defaults
    """

    nlp: dict[str, Any]
    encoder: tuple[str, dict[str, Any]]
    blocks: dict[str, dict[str, Any]]
    heads: tuple[tuple[str, Kind], ...]
    frozen: list[str]
    score_weights: dict[str, float | None]

    def components(self, encoder: EncoderFacts) -> dict[str, dict[str, Any]]:
        """[components], with an encoder."""
        name, block = self.encoder
        model = {**block["model"], "name": encoder.name, "revision": encoder.revision, "backend": "torch"}
        window = model.get("window")
        if window is not None and encoder.limit is not None and window > encoder.limit:
            model.update(window=None, overlap=None)
        blocks = {name: {key: value for key, value in block.items() if key != "tuning"} | {"model": model}}
        return blocks | self.blocks


def parts_of(teachers: Sequence[tuple[str, Language]], note: Callable[[str], None]) -> Parts:
    """The parts of the first teacher, and the heads that only others have.

    teachers: folders and pipelines. note: gets a line about each component that the student can't have.
    """
    source, nlp = teachers[0]
    config = nlp.config.interpolate()
    encoder = _encoder(source, nlp)
    blocks: dict[str, dict[str, Any]] = {}
    frozen: list[str] = []
    for name, pipe in nlp.pipeline:
        block = dict(config["components"][name])
        if pipe is encoder:
            continue
        if str(block.get("factory", "")).startswith(_PREFIX) and not isinstance(pipe, EncoderPipe):
            blocks[name] = block
        elif name in encoder.listener_map:
            note(f"The student has no {name}: only heads of this package can be distilled. Train it afterwards")
        else:
            blocks[name] = {"source": source}
            frozen += [name] if getattr(pipe, "is_trainable", False) else []
    pipeline = [name for name in nlp.pipe_names if name == encoder.name or name in blocks]
    heads = dict(_heads(nlp))
    for _, other in teachers[1:]:
        for name, kind in _heads(other):
            if name not in heads:
                heads[name] = kind
                blocks[name] = {**other.config.interpolate()["components"][name], "encoder": None}
                pipeline.append(name)
    same = len(heads) == len(list(_heads(nlp)))
    return Parts(
        nlp={**config["nlp"], "pipeline": pipeline, "disabled": []},
        encoder=(encoder.name, dict(config["components"][encoder.name])),
        blocks=blocks,
        heads=tuple(heads.items()),
        frozen=frozen,
        score_weights=dict(config["training"]["score_weights"]) if same else {},
    )


def _heads(nlp: Language) -> Iterator[tuple[str, Any]]:
    for name, pipe in nlp.pipeline:
        if isinstance(pipe, HeadPipe):
            yield name, nlp.get_pipe_meta(name).factory.removeprefix(_PREFIX)


def _encoder(source: str, nlp: Language) -> EncoderPipe:
    """The encoder that all heads read."""
    found = {pipe.reads.encoder for _, pipe in nlp.pipeline if isinstance(pipe, HeadPipe)}
    encoder = next(iter(found))
    if len(found) != 1 or encoder is None:
        names = ", ".join(sorted(one.name for one in found if one is not None))
        raise ConfigError(
            f"The heads of the teacher {source!r} read {len(found)} encoders: {names}. Expected one, which "
            "the student's takes the place of. Write a config for the student, with [initialize.before_init] "
            '@callbacks = "spacy-bertft.distill.v1", and train it with `bertft train`.'
        )
    return encoder
