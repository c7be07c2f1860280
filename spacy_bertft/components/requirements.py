"""What wheels of a pipeline require, beyond what `spacy package` finds: this package with the right extra."""

from __future__ import annotations

from typing import Literal

from spacy.language import Language
from spacy.util import get_minor_version_range

from spacy_bertft import __version__

# The distribution with the code. spacy-bertft adds torch and the rest of what training needs.
CORE = "spacy-bertft-core"
Extra = Literal["train", "onnx"]


def require(nlp: Language, extra: Extra) -> None:
    """Add this package, with an extra, to the requirements of a pipeline. Those saved with it take precedence."""
    lines = nlp.meta.setdefault("requirements", [])
    if requirement(extra) not in lines:
        lines.append(requirement(extra))


def requirement(extra: Extra) -> str:
    """This package in its current version, with an extra, for pip."""
    return f"{CORE}[{extra}]{get_minor_version_range(__version__)}"
