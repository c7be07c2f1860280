"""spacy-bertft: fine-tuned BERT encoders with task heads, as spaCy components.

Importing this package registers nothing: spaCy finds the components through entry points. The names in `__all__` here
and in `spacy_bertft.convert`, `spacy_bertft.export` and `spacy_bertft.hub` are public, and so are the names used in
configs; all others may change.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from spacy_bertft.errors import BertftError, ConfigError, DataError, EncoderError

if _TYPE_CHECKING:
    from spacy_bertft.components.pairs import pair_doc, question_doc
    from spacy_bertft.hub import from_hub

__version__ = "0.1.0"
__all__ = ["BertftError", "ConfigError", "DataError", "EncoderError", "from_hub", "pair_doc", "question_doc"]


def __getattr__(name: str) -> object:
    """Import functions on first use, because their modules import spaCy."""
    from importlib import import_module

    modules = {"from_hub": "hub", "pair_doc": "components.pairs", "question_doc": "components.pairs"}
    if name in modules:
        function: object = getattr(import_module(f"{__name__}.{modules[name]}"), name)
        return function
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
