"""One number per Doc, such as a rating: `doc._.value`.

It is stored in the attrs of doc.spans["value"], a span group without spans: unlike user data, span groups are always
saved with a Doc, also in a DocBin.
"""

from __future__ import annotations

import math
from numbers import Real

from spacy.tokens import Doc, SpanGroup

from spacy_bertft.components.extensions import register
from spacy_bertft.errors import DataError

VALUE_KEY = "value"


def set_value(doc: Doc, value: float | None) -> None:
    """Set the number of a Doc; None removes it. Same as `doc._.value = …`."""
    if value is None:
        if VALUE_KEY in doc.spans:
            del doc.spans[VALUE_KEY]
        return
    if not _is_finite(value):
        raise DataError(
            f"The value of a Doc is {value!r} ({doc.text[:60]!r}). Expected a finite number, or None for a text "
            "without one. Correct it."
        )
    doc.spans[VALUE_KEY] = SpanGroup(doc, name=VALUE_KEY, attrs={VALUE_KEY: float(value)})


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):  # NumPy's numbers are Real too
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an int too large for a float
        return False


def value_of(doc: Doc) -> float | None:
    """The number of a Doc; None if it has none. Same as `doc._.value`."""
    group = doc.spans.get(VALUE_KEY)
    value = None if group is None else group.attrs.get(VALUE_KEY)
    return None if value is None else float(value)


register(Doc, "value", value_of, set_value)
