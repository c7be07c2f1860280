"""The errors this package raises. Each message says what was found, what was expected and how to fix it.

    BertftError                 everything below; catch this one
    ├── ConfigError             a setting, the order of a pipeline, a missing component
    ├── EncoderError            an encoder or tokenizer that can't be loaded or used
    └── DataError               training data, annotations, input files

All are ValueErrors too, so code that catches spaCy's own errors catches them.
"""

from importlib.util import find_spec


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


def diverged(found: str) -> DataError:
    """Build the error for a loss or gradient that is NaN or infinite. found: which one, and its value."""
    return DataError(
        f"{found}: training has diverged. Expected a finite number. Lower the learning rate in [training.optimizer] "
        "(2e-5 to 3e-4 is usual), use warm-up, or set grad_clip = 1.0."
    )


def how_to_install(extra: str, *, distribution: str = "spacy-bertft") -> str:
    """The commands that install an extra of this package, for the end of a message.

    distribution: spacy-bertft, which trains, or spacy-bertft-core for what predicts in production.
    """
    return f'pip install "{distribution}[{extra}]" (from a checkout: pip install -e ".[{extra}]")'


def need_torch(what: str) -> None:
    """Raise a ConfigError if torch or transformers is not installed. what: needs them, for the message."""
    missing = [name for name in ("torch", "transformers") if not _installed(name)]
    if missing:
        raise ConfigError(
            f"{what} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            "spacy-bertft-core alone runs pipelines that `bertft export` wrote. Expected the whole package. Install "
            'it: pip install spacy-bertft (from a checkout: pip install -e ".[train]").'
        )


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # what keeps a package from being imported may raise either
        return False
