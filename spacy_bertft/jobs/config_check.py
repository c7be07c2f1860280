"""Settings of a training config that spaCy takes in silence: misspelt ones, and those that nothing reads."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy.language import DEFAULT_CONFIG, Language
from spacy.schemas import CONFIG_SCHEMAS
from spacy.util import registry
from thinc.api import Config

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.registry import is_data_set

_VARIABLE = re.compile(r"\$\{([^}]+)\}")
_FREE = ("paths", "system")  # sections of variables, which the rest of the config reads
_SECTIONS = {*DEFAULT_CONFIG, *CONFIG_SCHEMAS}
_FIELDS = {name: set(schema.model_fields) for name, schema in CONFIG_SCHEMAS.items()}  # type: ignore[attr-defined]
_DOT_NAMES = ("training.train_corpus", "training.dev_corpus", "pretraining.corpus")
_WITH_UNLABELLED = "spacy-bertft.WithUnlabelled.v1"
_READERS = ("spacy.Corpus.v1", "spacy-bertft.Corpus.v1", "spacy.JsonlCorpus.v1", "spacy.PlainTextCorpus.v1")


@dataclass(frozen=True, slots=True)
class _Unread:
    """A setting or section that nothing reads, such as "training.eval_freq"."""

    name: str
    meant: str | None  # the setting that was probably meant


def check_overrides(config: Config, overrides: Mapping[str, Any]) -> None:
    """Raise a ConfigError if overrides name settings that neither the config nor spaCy and its functions have.

    config: not interpolated, without the overrides.
    """
    filled = _filled(_with_functions(config, overrides))
    read, known = _read(filled), _names(filled)
    unread = [_Unread(name, _meant(name, known)) for name in overrides if not _is_setting(filled, name, read)]
    if unread:
        raise _unread_error("The command line sets", unread, "--")


def check_config(config: Config) -> list[str]:
    """Raise a ConfigError if settings are probably misspelt; return what else nothing reads, as sentences.

    config: not interpolated, with the overrides.
    """
    filled = _filled(config)
    found = set(_unread(config, _read(filled)))
    known = (_names(filled) | _schema_names()) - found - _unused_components(config)
    unread = [_Unread(name, _meant(name, known)) for name in sorted(found)]
    misspelt = [one for one in unread if one.meant]
    if misspelt:
        raise _unread_error("The config sets", misspelt, "")
    unused = sorted(_unused_components(config) - _read(filled))
    said = [f"Nothing reads {one.name} in the config." for one in unread]
    said += [f"[{name}] is not in the pipeline of the config." for name in unused]
    return said + list(_unknown_scores(filled))


def check_files(config: Config) -> None:
    """Raise an error if the training or development data have no path, or are not there.

    config: not interpolated, with the overrides. Readers of other packages are left to themselves.
    """
    values = DEFAULT_CONFIG.merge(config).interpolate()
    for what, role in (("train", "training"), ("dev", "development")):
        name = values["training"].get(f"{what}_corpus")
        block = _at(values, name)
        if isinstance(block, dict) and block.get("@readers") == _WITH_UNLABELLED:
            block, name = block.get("annotated"), f"{name}.annotated"
        if not isinstance(block, dict) or block.get("@readers") not in _READERS or "path" not in block:
            continue
        path, setting = block["path"], f"{name}.path"
        if path is None:
            option = f"--paths.{what} FILE" if _at(config, setting) == f"${{paths.{what}}}" else f"--{setting} FILE"
            raise ConfigError(
                f"The {role} data have no path: {setting} is null. Expected a .spacy file or a folder of them. Give it "
                f"with {option}."
            )
        if not (Path(path).exists() or _is_data_set(Path(path), block)):
            raise DataError(
                f"The {role} data {str(path)!r} were not found ({Path(path).absolute()}). Expected a .spacy file or a "
                f"folder of them. Correct {setting}, or make the file with `bertft convert`."
            )


def _is_data_set(path: Path, block: Mapping[str, Any]) -> bool:
    """Whether a corpus reader of ours reads a data set by its name, or a split of one."""
    if block["@readers"] != "spacy-bertft.Corpus.v1":
        return False
    return is_data_set(path, Options(format=block.get("format", "auto")))


def _with_functions(config: Config, overrides: Mapping[str, Any]) -> Config:
    """The config with the registered functions and factories that overrides name in blocks of it."""
    changed = config.copy()
    for name, value in overrides.items():
        section, _, key = name.rpartition(".")
        block = _at(changed, section)
        if isinstance(block, dict) and (key.startswith("@") or key == "factory"):
            block[key] = value
    return changed


def _filled(config: Config) -> Config:
    """The config with spaCy's default sections, and the default settings of components."""
    Language()  # imports the factories of all packages
    filled = DEFAULT_CONFIG.merge(config)
    for block in (filled.get("components") or {}).values():
        defaults = _factory_defaults(block.get("factory")) if isinstance(block, dict) else {}
        for key, value in defaults.items():
            block.setdefault(key, value)
    return filled


def _factory_defaults(factory: Any) -> Mapping[str, Any]:
    try:
        return Language.get_factory_meta(factory).default_config or {}
    except Exception:  # an unknown factory, or one whose import fails: spaCy's own message comes next
        return {}


def _unread(config: Config, read: set[str]) -> Iterator[str]:
    """Settings that no schema has and no variable names."""
    for section, block in config.items():
        if section not in _SECTIONS and not _is_read(section, read):
            yield section
        elif section in CONFIG_SCHEMAS and isinstance(block, dict):
            names = (f"{section}.{key}" for key in block if key not in _FIELDS[section])
            yield from (name for name in names if not _is_read(name, read))
    for name, block in (config.get("components") or {}).items():
        if isinstance(block, dict) and "name" in block and _names_no_encoder(block, "name"):
            yield f"components.{name}.name"


def _is_setting(filled: Config, name: str, read: set[str]) -> bool:
    """Whether something reads a setting if it is given as an override."""
    section, _, key = name.rpartition(".")
    block = _at(filled, section)
    if not isinstance(block, dict) or key in block:
        return isinstance(block, dict) and not _names_no_encoder(block, key)
    if section in CONFIG_SCHEMAS:
        return key in _FIELDS[section]
    if section in _FREE:
        return _is_read(name, read)
    arguments = _arguments(block)
    if arguments is not None:
        return key in arguments
    # Blocks of a component of another package, and of tables: any key may be right.
    return not str(block.get("factory", "")).startswith("bertft_")


def _names_no_encoder(block: Mapping[str, Any], key: str) -> bool:
    """Whether it is a `name` beside an encoder's factory, which spaCy ignores."""
    return key == "name" and block.get("factory") == "bertft_encoder"


def _unused_components(config: Config) -> set[str]:
    """Blocks of components that are not in the pipeline."""
    pipeline = (config.get("nlp") or {}).get("pipeline") or []
    return {f"components.{name}" for name in config.get("components") or {} if name not in pipeline}


def _is_read(name: str, read: set[str]) -> bool:
    """Whether a variable refers to a setting, to a part of it, or to a section around it."""
    return any(f"{one}.".startswith(f"{name}.") or f"{name}.".startswith(f"{one}.") for one in read)


def _arguments(block: Mapping[str, Any]) -> set[str] | None:
    """The arguments of a block's registered function; None if there is none, or if it takes any."""
    kind = next((key for key in block if key.startswith("@")), None)
    try:
        parameters = inspect.signature(registry.get(kind[1:], block[kind])).parameters if kind else None
    except Exception:  # an unknown function: spaCy's own message comes next
        return None
    if parameters is None or any(one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in parameters.values()):
        return None
    return set(parameters)


def _read(config: Mapping[str, Any]) -> set[str]:
    """The names that variables and the names of corpora in a config refer to."""
    found = {str(_at(config, name)) for name in _DOT_NAMES if _at(config, name)}
    for value in _values(config):
        found.update(one.replace(":", ".").strip() for one in _VARIABLE.findall(value))
    return found


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inside in value.values() if isinstance(value, Mapping) else value:
            yield from _values(inside)


def _names(config: Mapping[str, Any], before: str = "") -> set[str]:
    """All settings and sections of a config, with dots."""
    found: set[str] = set()
    for key, value in config.items():
        if not key.startswith("@"):
            found.add(f"{before}{key}")
            if isinstance(value, Mapping):
                found |= _names(value, f"{before}{key}.")
    return found


def _schema_names() -> set[str]:
    sections = {"paths", "components", "corpora", *CONFIG_SCHEMAS}
    return sections | {f"{name}.{key}" for name, keys in _FIELDS.items() for key in keys}


def _meant(name: str, known: Iterable[str]) -> str | None:
    """The most similar setting: the same key one level below, or else the closest spelling in the same section."""
    section, _, key = name.rpartition(".")
    below = [one for one in sorted(known) if re.fullmatch(rf"{re.escape(section)}\.[^.]+\.{re.escape(key)}", one)]
    if section and below:
        return below[0]
    depth = name.count(".")
    beside = [one for one in known if one.count(".") == depth and one != name]
    keys = [one.rpartition(".")[2] for one in beside if section and one.rpartition(".")[0] == section]
    if close := difflib.get_close_matches(key, keys, n=1):
        return f"{section}.{close[0]}"
    if section:
        beside = [one for one in beside if one.rpartition(".")[2] == key]
    return next(iter(difflib.get_close_matches(name, beside, n=1, cutoff=0.8)), None)


def _unknown_scores(filled: Config) -> Iterator[str]:
    """Weights of scores that no component says it has. spaCy leaves out those that are missing in an evaluation."""
    given: set[str] = set()
    for block in filled["components"].values():
        try:
            given |= set(Language.get_factory_meta(block["factory"]).default_score_weights or ())
        except Exception:  # sourced, or of an unknown factory
            return
    for name, weight in filled["training"]["score_weights"].items():
        close = difflib.get_close_matches(name, sorted(given), n=1, cutoff=0.8)
        if weight and name not in given and close:
            yield f"No component says that it has the score {name} ([training.score_weights]): did you mean {close[0]}?"


def _at(config: Mapping[str, Any], name: str | None) -> Any:
    """The value of a setting or section; None if it is not there."""
    found: Any = config
    for part in (name or "").split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _unread_error(what: str, unread: list[_Unread], prefix: str) -> ConfigError:
    listed = ""
    for one in unread:
        listed += f"\n  {prefix}{one.name}: "
        listed += f"did you mean {prefix}{one.meant}?" if one.meant else "nothing has a similar name"
    return ConfigError(f"{what} what nothing reads. Correct it, or leave it out:{listed}")
