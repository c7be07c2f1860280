"""spacy-bertft: fine-tuned BERT encoders with task heads, as spaCy components.

Importing this package does nothing else: spaCy finds the components by entry points.
"""

from typing import TYPE_CHECKING, Any

from spacy_bertft.errors import BertftError as BertftError
from spacy_bertft.errors import ConfigError as ConfigError
from spacy_bertft.errors import DataError as DataError
from spacy_bertft.errors import EncoderError as EncoderError

if TYPE_CHECKING:
    from spacy_bertft.components.pairs import pair_doc as pair_doc
    from spacy_bertft.components.pairs import question_doc as question_doc

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`pair_doc` and `question_doc`, whose module imports spaCy."""
    if name in ("pair_doc", "question_doc"):
        from spacy_bertft.components import pairs

        return getattr(pairs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
