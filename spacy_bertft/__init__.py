"""spacy-bertft: fine-tuned BERT encoders with task heads, as spaCy components.

Importing this package does nothing else: spaCy finds the components by entry points.
"""

from spacy_bertft.errors import BertftError as BertftError
from spacy_bertft.errors import ConfigError as ConfigError
from spacy_bertft.errors import DataError as DataError
from spacy_bertft.errors import EncoderError as EncoderError

__version__ = "0.1.0"
