"""The errors this package raises. Each message says what was found, what was expected and how to fix it.

    BertftError                 everything below; catch this one
    ├── ConfigError             a setting, the order of a pipeline, a missing component
    ├── EncoderError            an encoder or tokenizer that can't be loaded or used
    └── DataError               training data, annotations, input files

All are ValueErrors too, so code that catches spaCy's own errors catches them.
"""


class BertftError(ValueError):
    """Base of all errors of spacy-bertft."""


class ConfigError(BertftError):
    """A setting that can't be honoured, or a pipeline whose parts don't fit together."""


class EncoderError(BertftError):
    """An encoder or tokenizer that can't be loaded, or doesn't support what is needed."""


class DataError(BertftError):
    """Training data, annotations or input files that can't be used as they are."""


def data_error(where: str, *, found: str, expected: str, fix: str) -> DataError:
    """Build the error for a problem in an input file; all such errors have the same form."""
    return DataError(f"{where}: found {found}; expected {expected}; fix: {fix}")


def how_to_install(extra: str) -> str:
    """The commands that install an extra of this package, for the end of a message."""
    return f'pip install "spacy-bertft[{extra}]" (from a checkout: pip install -e ".[{extra}]")'
