"""Pushing a saved pipeline to the hub, in one commit, with a model card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacy.language import Language

from spacy_bertft.encoder.adapters import read_base
from spacy_bertft.encoder.checkpoint import ADAPTER_CONFIG
from spacy_bertft.encoder.folders import find_folder
from spacy_bertft.errors import ConfigError
from spacy_bertft.files import PIPELINE
from spacy_bertft.jobs.evaluate import load_pipeline
from spacy_bertft.jobs.hub.card import CARD_MARK, render_card
from spacy_bertft.jobs.hub.connection import LIBRARY, check_repo, reaching_hub

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

_CARD = "README.md"
_KEPT = {_CARD, ".gitattributes"}
# What marks a block of the config that names a pretrained encoder -> the setting that names it.
_NAMED_IN = {("@architectures", "spacy-bertft.Encoder.v1"): "name", ("factory", "bertft_mlm"): "model"}


@dataclass(frozen=True)
class PushReport:
    """What a push sent, or would send."""

    repo: str
    public: bool
    sizes: dict[str, int]  # path in the repository -> bytes
    card: str
    card_kept: bool  # the repository's own card stays
    deleted: tuple[str, ...]  # files of an earlier push that the pipeline no longer has
    local_paths: tuple[str, ...]  # settings of config.cfg that name files or folders of this machine
    url: str | None  # None: nothing was sent
    commit: str | None


@dataclass(frozen=True)
class _Plan:
    files: dict[str, Path]
    card: str
    own_card: bool  # given by --card
    local_paths: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Path in the repository -> bytes."""
        return {_CARD: len(self.card.encode()), **{name: path.stat().st_size for name, path in self.files.items()}}


def push(
    pipeline: Path,
    repo: str,
    *,
    license: str | None = None,
    public: bool = False,
    base_model: str | None = None,
    card: Path | None = None,
    message: str | None = None,
    dry_run: bool = False,
) -> PushReport:
    """Push a saved pipeline to a repository on the Hugging Face hub, which is created if need be.

    repo: user/name. license: the hub's identifier, such as "mit"; None: the one in the pipeline's meta.json.
    public: allow that everyone can read it; otherwise a new repository is private, and an existing public one is
    refused. base_model: hub name of the pretrained encoder; None: the name in the config. card: Markdown file to use as
    model card, which says licence and base model itself; None: one is written, unless the repository has one that
    people wrote. message: of the commit. dry_run: send nothing, and don't connect.

    Hidden files (names that begin with ".") are not sent. Raises a ConfigError if the pipeline can't be loaded, needs
    files of this machine, has no licence, or the repository can't be used.
    """
    check_repo(repo)
    plan = _plan(pipeline, repo, license, base_model, card)
    if dry_run:
        return PushReport(repo, public, plan.sizes, plan.card, False, (), plan.local_paths, url=None, commit=None)
    with reaching_hub(repo):
        return _send(plan, repo, public, message or "Push the pipeline with bertft")


def _send(plan: _Plan, repo: str, public: bool, message: str) -> PushReport:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(**LIBRARY)
    info = _repository(api, repo, public)
    there = [sibling.rfilename for sibling in info.siblings or ()]
    keep_card = not plan.own_card and _CARD in there and _is_of_people(api, repo)
    contents: dict[str, Path | bytes] = {**({} if keep_card else {_CARD: plan.card.encode()}), **plan.files}
    deleted = _stale(there, plan.files)
    operations: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in deleted]
    operations += [CommitOperationAdd(path_in_repo=name, path_or_fileobj=one) for name, one in contents.items()]
    commit = api.create_commit(repo, operations, commit_message=message).oid
    sizes = {name: size for name, size in plan.sizes.items() if name in contents}
    url = f"{api.endpoint}/{repo}"
    return PushReport(repo, not info.private, sizes, plan.card, keep_card, deleted, plan.local_paths, url, commit)


def _plan(pipeline: Path, repo: str, license: str | None, base_model: str | None, card: Path | None) -> _Plan:
    """What a push sends, found without the network."""
    if card is not None and (license or base_model):
        raise ConfigError(
            f"Found {'--license' if license else '--base-model'} beside --card; expected one or the other, because a "
            "card of yours is sent as it is. Write license and base_model into the metadata at its top, and leave the "
            "option out."
        )
    nlp = load_pipeline(pipeline)
    _check_adapters(pipeline)
    files = _files(pipeline)
    local = tuple(_local_paths(nlp))
    if card is not None:
        return _Plan(files, _read(card), own_card=True, local_paths=local)
    bases = [base_model] if base_model else _base_models(nlp)
    text = render_card(nlp, repo, license=_license(nlp, license), base_models=bases)
    return _Plan(files, text, own_card=False, local_paths=local)


def _files(pipeline: Path) -> dict[str, Path]:
    """Path in the repository -> file. Hidden files, such as .env or .git/config, are not of the pipeline."""
    inside = {path.relative_to(pipeline): path for path in sorted(pipeline.rglob("*")) if path.is_file()}
    files = {
        name.as_posix(): path
        for name, path in inside.items()
        if name.as_posix() != _CARD and not any(part.startswith(".") for part in name.parts)
    }
    for path in files.values():
        if not path.resolve().is_relative_to(pipeline.resolve()):
            raise ConfigError(
                f"{path}: found a link to {path.resolve()}, outside of the pipeline; expected only files of the "
                f"pipeline. Remove the link, or push a copy with the files themselves: cp -rL {pipeline} COPY."
            )
    return files


def _license(nlp: Language, given: str | None) -> str:
    found = (given or nlp.meta.get("license") or "").strip().lower().replace(" ", "-")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", found):
        raise ConfigError(
            f"Found {f'the licence {found!r}' if found else 'no licence'} for the pipeline; expected an identifier of "
            "the hub, such as mit, apache-2.0, cc-by-sa-4.0 or other. Give it with --license, or set it in the "
            "pipeline's meta.json. Mind the licences of the pretrained encoder and of the training texts."
        )
    return found


def _read(card: Path) -> str:
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The card {str(card)!r} could not be read ({error}). Expected a Markdown file in UTF-8. Correct --card."
        ) from error


def _base_models(nlp: Language) -> Sequence[str]:
    """The names of the encoders that may be hub names: folders and packages of this machine are none."""
    names = [name for _, name in _encoder_names(nlp)]
    hub = [name for name in names if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) and find_folder(name) is None]
    return list(dict.fromkeys(hub))


def _encoder_names(nlp: Language) -> Iterator[tuple[str, str]]:
    """The settings that name pretrained encoders, also those inside other models, and the names."""
    strings = dict(_strings(nlp.config["components"], "components"))
    for name, value in strings.items():
        block, _, key = name.rpartition(".")
        if setting := _NAMED_IN.get((key, value)):
            yield f"{block}.{setting}", strings[f"{block}.{setting}"]


def _check_adapters(pipeline: Path) -> None:
    """Refuse adapters whose encoder others don't have."""
    for config in sorted(pipeline.rglob(ADAPTER_CONFIG)):
        base = read_base(config.parent).name
        if find_folder(base) is not None:
            raise ConfigError(
                f"{config.parent}: found an adapter for {base!r}, a folder of this machine; expected an encoder that "
                'others can load too. Train with save = "merged", or on an encoder with a hub name.'
            )


def _local_paths(nlp: Language) -> Iterator[str]:
    """The absolute paths in the config, and the encoders that are folders here, each with its setting."""
    encoders = dict(_encoder_names(nlp))
    for name, value in _strings(nlp.config):
        path = Path(value)
        # "/" alone is more likely a separator.
        if (path.is_absolute() and path != Path(path.anchor)) or (name in encoders and path.is_dir()):
            yield f"{name} = {value}"


def _strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All strings in a config, with their dotted names."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, one in items:
            yield from _strings(one, f"{name}.{key}".removeprefix("."))


def _repository(api: HfApi, repo: str, public: bool) -> ModelInfo:
    """The repository, made if need be. Raises a ConfigError if it is public against the wish, or holds other files."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=not public, exist_ok=True)
        return api.model_info(repo)
    if not info.private and not public:
        raise ConfigError(
            f"The hub repository {repo!r} is public; expected a private one. Everyone could read the pipeline: give "
            "--public if that is meant, or another name."
        )
    names = {sibling.rfilename for sibling in info.siblings or ()} - _KEPT
    if names and PIPELINE not in names:
        raise ConfigError(
            f"The hub repository {repo!r} holds other files ({', '.join(sorted(names)[:5])}); expected a new or empty "
            "repository, or one that a pipeline was pushed to. Give another name."
        )
    return info


def _is_of_people(api: HfApi, repo: str) -> bool:
    """Whether the repository's card was written or changed by people."""
    return CARD_MARK not in Path(api.hf_hub_download(repo, _CARD)).read_text(encoding="utf-8")


def _stale(there: Sequence[str], files: dict[str, Path]) -> tuple[str, ...]:
    """Files of an earlier push that would lie among the new ones, such as weights in another format.

    The folder of a component that the pipeline no longer has stays: it might be of people, and its name doesn't tell.
    """
    folders = {name.partition("/")[0] for name in files if "/" in name}
    return tuple(name for name in there if name.partition("/")[0] in folders and name not in files)
