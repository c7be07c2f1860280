"""Errors of the connection to the hub, as one error of ours that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spacy_bertft import __version__
from spacy_bertft.errors import BertftError, ConfigError

# What huggingface_hub tells the hub about us, as arguments of its functions.
LIBRARY: dict[str, Any] = {"library_name": "spacy-bertft", "library_version": __version__}


def check_repo(repo: str) -> None:
    """Raise a ConfigError unless a repository's name is user/name."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo, re.ASCII):
        raise ConfigError(
            f"Found {repo!r} as the name of a repository; expected user/name or organisation/name, with letters, "
            "digits, '-', '_' and '.' in it. Correct the name."
        )


@contextmanager
def reaching_hub(repo: str) -> Iterator[None]:
    """Turn what huggingface_hub raises inside the block into a ConfigError."""
    try:
        yield
    except BertftError:
        raise
    except Exception as error:  # network errors have other classes with each version of huggingface_hub
        raise _explained(repo, error) from error


def _explained(repo: str, error: Exception) -> ConfigError:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, errors.OfflineModeIsEnabled):
        cause = cause.__cause__
    said = " ".join(str(error).split())
    if cause is not None:
        found, fix = "offline mode", "unset HF_HUB_OFFLINE"
    elif isinstance(error, errors.RevisionNotFoundError):
        found, fix = "no such revision in it", "give a branch, tag or commit that it has"
    elif isinstance(error, errors.RepositoryNotFoundError | errors.GatedRepoError) or status in (401, 403):
        found = "no access: no such repository, or a private one that this token may not use"
        fix = "correct the name, or log in with `hf auth login` or HF_TOKEN and a token that may read or write it"
    else:
        found, fix = f"{type(error).__name__}: {said[:300]}", "check the network, HF_ENDPOINT and the name"
    return ConfigError(f"The hub repository {repo!r} could not be used: found {found}. Expected access to it; {fix}.")
