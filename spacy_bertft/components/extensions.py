"""Our extension attributes (`doc._.name`), whose names other packages may have taken."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

_OWN_PREFIX = "bertft_"


def register(
    kind: Any, name: str, getter: Callable[[Any], Any], setter: Callable[[Any, Any], None] | None = None
) -> None:
    """Register `._.name` on `kind` (Doc or Span), and `._.bertft_name`, which no other package uses.

    If another package has registered the short name already, that one stays, with a warning.
    """
    kind.set_extension(_OWN_PREFIX + name, getter=getter, setter=setter, force=True)
    if not kind.has_extension(name):
        kind.set_extension(name, getter=getter, setter=setter)
        return
    theirs = next((part for part in kind.get_extension(name)[2:] if part is not None), None)
    if getattr(theirs, "__module__", None) != getter.__module__:  # else this module was imported twice
        owner = getattr(theirs, "__module__", None) or "another package"
        warnings.warn(
            f"{kind.__name__}._.{name} was already registered by {owner}, so it does not return what spacy-bertft "
            f"sets. Expected the name to be free. Read ._.{_OWN_PREFIX}{name} instead.",
            stacklevel=3,
        )
