"""spacy-bertft: fine-tuned BERT encoders with task heads, as spaCy components.

Importing this package registers nothing: spaCy finds the components through entry points. The names in `__all__` here,
in `spacy_bertft.convert` and in `spacy_bertft.export` are public, and so are the names used in configs; all others may
change.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from spacy_bertft.errors import BertftError, ConfigError, DataError, EncoderError

if _TYPE_CHECKING:
    from spacy_bertft.components.pairs import pair_doc, question_doc

__version__ = "0.1.0"
__all__ = ["BertftError", "ConfigError", "DataError", "EncoderError", "pair_doc", "question_doc"]


def __getattr__(name: str) -> object:
    """Import `pair_doc` and `question_doc` on first use, because their module imports spaCy."""
    if name in ("pair_doc", "question_doc"):
        from spacy_bertft.components import pairs

        function: object = getattr(pairs, name)
        return function
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
