"""The encoders of a saved pipeline, and a copy of it with others in their places."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spacy.language import Language

from spacy_bertft.components.encoder_pipe import ENCODER_FOLDER, EncoderPipe
from spacy_bertft.components.fill_mask_pipe import MODEL_FOLDER, FillMaskPipe
from spacy_bertft.components.head_files import replace_save_id
from spacy_bertft.components.head_pipe import HeadPipe
from spacy_bertft.encoder.checkpoint import Checkpoint
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.shrink.whole import of_masked, of_pipe

_OWN_ENCODER = "spacy-bertft.Tok2Vec.v1"


@dataclass(frozen=True)
class Part:
    """An encoder, and where a pipeline saves it."""

    name: str  # of the component; empty for an encoder outside of a pipeline
    encoder: Encoder
    checkpoint: Checkpoint  # with the head for masked words, if it has one
    folder: Path = Path()  # inside the pipeline's
    heads: tuple[str, ...] = ()  # components that store the id of the encoder's save


def encoders_of(nlp: Language, pipeline: Path) -> list[Part]:
    """All encoders of a loaded pipeline that are components. Raises a ConfigError if there is none."""
    parts: list[Part] = []
    for name, pipe in nlp.components:
        if isinstance(pipe, EncoderPipe):
            heads = [
                head for head, other in nlp.components if isinstance(other, HeadPipe) and other.reads.encoder is pipe
            ]
            parts.append(Part(name, pipe.encoder, of_pipe(pipe), Path(name, ENCODER_FOLDER), tuple(heads)))
        elif isinstance(pipe, FillMaskPipe):
            model = pipe.fill_mask.model
            parts.append(Part(name, model.encoder, of_masked(model), Path(name, MODEL_FOLDER)))
    if not parts:
        own = f" A component with an encoder of its own ({_OWN_ENCODER}) is not one." if _has_own(nlp) else ""
        raise ConfigError(
            f"The pipeline {str(pipeline)!r} has no bertft_encoder and no bertft_mlm (found: "
            f"{', '.join(nlp.component_names) or 'nothing'}). Expected at least one of them: only encoders of this "
            f"package can be shrunk.{own}"
        )
    return parts


def left_alone(nlp: Language) -> str | None:
    """A line about encoders that are not shrunk, because they are parts of other components; None without any."""
    return f"encoders inside of other components ({_OWN_ENCODER}) stay as they are" if _has_own(nlp) else None


def _has_own(nlp: Language) -> bool:
    return _OWN_ENCODER in nlp.config.to_str(interpolate=False)


def copy_pipeline(pipeline: Path, folder: Path, made: Sequence[tuple[Part, Checkpoint]]) -> None:
    """Copy the folder `pipeline` to `folder`, with other encoders. made: each part, and what replaces it."""
    replaced = {pipeline / part.folder for part, _ in made}
    shutil.copytree(pipeline, folder, ignore=lambda inside, files: files if Path(inside) in replaced else ())
    for part, checkpoint in made:
        save_id = checkpoint.digest()
        checkpoint.write(folder / part.folder, save_id=save_id)
        for head in part.heads:
            replace_save_id(folder / head, save_id)
