"""spacy-bertft: fine-tuned BERT encoders with task heads, as spaCy components.

Importing this package registers nothing: spaCy finds the components through entry points. The names in `__all__` here
and in its modules `convert`, `export`, `hub` and `presidio` are public, and so are the names used in configs; all
others may change.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from spacy_bertft.errors import BertftError, ConfigError, DataError, EncoderError

if _TYPE_CHECKING:
    from spacy_bertft.components.pairs import pair_doc, question_doc
    from spacy_bertft.hub import from_hub
    from spacy_bertft.jobs.huggingface.read import from_huggingface

__version__ = "0.1.0"
__all__ = [
    "BertftError",
    "ConfigError",
    "DataError",
    "EncoderError",
    "from_hub",
    "from_huggingface",
    "pair_doc",
    "question_doc",
]


# Imported on first use, because their modules import spaCy.
_LATE = {
    "from_hub": "spacy_bertft.hub",
    "from_huggingface": "spacy_bertft.jobs.huggingface.read",
    "pair_doc": "spacy_bertft.components.pairs",
    "question_doc": "spacy_bertft.components.pairs",
}


def __getattr__(name: str) -> object:
    """Import a function on first use."""
    if name in _LATE:
        from importlib import import_module

        function: object = getattr(import_module(_LATE[name]), name)
        return function
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
