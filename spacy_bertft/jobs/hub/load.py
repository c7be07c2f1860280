"""Loading a pipeline from the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language

from spacy_bertft.errors import BertftError, ConfigError
from spacy_bertft.files import PIPELINE
from spacy_bertft.jobs.evaluate import unreadable
from spacy_bertft.jobs.hub.connection import LIBRARY, check_repo, reaching_hub


def from_hub(repo: str, *, revision: str = "main", **options: Any) -> Language:
    """Download a pipeline from a repository on the Hugging Face hub, if it is not in the cache yet, and load it.

    repo: user/name, as given to `bertft push`; revision: branch, tag or commit; options: further arguments of
    spacy.load, such as `exclude`. A private repository needs the token of `hf auth login` or HF_TOKEN. Raises a
    ConfigError if the repository can't be reached, holds no pipeline or holds one that can't be loaded here.
    """
    from huggingface_hub import snapshot_download

    check_repo(repo)
    with reaching_hub(repo):
        folder = Path(snapshot_download(repo, revision=revision, **LIBRARY))
    if not (folder / PIPELINE).is_file():
        found = sorted(path.name for path in folder.iterdir())
        raise ConfigError(
            f"The hub repository {repo!r} has no {PIPELINE}; found {', '.join(found[:8]) or 'no files'}. Expected a "
            "pipeline that `bertft push` wrote. `bertft import` makes one of a fine-tuned checkpoint."
        )
    try:
        return spacy.load(folder, **options)
    except BertftError:
        raise
    except Exception as error:  # whatever its components raise
        raise unreadable(folder, error) from error
