"""The config that a search starts from, and configs of trials: the same with other values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spacy.util import get_sourced_components, load_config, load_model_from_config, registry
from thinc.api import Config

from spacy_bertft.errors import BertftError, ConfigError

_SHOWN = 5  # differences between configs


def filled_config(path: Path, overrides: Mapping[str, Any]) -> Config:
    """Read a training config with all settings that it leaves out filled in; variables stay variables.

    overrides: "training.max_epochs" -> value, …, as on the command line of `spacy train`.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise ConfigError(f"{path}: found {found}; expected a config for `spacy train`; fix: correct the path")
    try:
        config = load_config(path, overrides=dict(overrides), interpolate=False)
        filled = load_model_from_config(config, auto_fill=True, validate=True).config.copy()
    except BertftError:
        raise
    except Exception as error:  # raised by configparser, confection, spaCy or a component
        raise ConfigError(
            f"{path}: found a config that spaCy refuses ({one_line(error)}); expected one that `spacy train` takes; "
            "fix: correct the setting, or give the file that registers your own functions with --code"
        ) from error
    # Loading has replaced them by their settings, without a word of where they come from.
    filled["components"].update(get_sourced_components(config))
    return filled


def one_line(error: BaseException) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split()).removesuffix(".") or type(error).__name__


def settings_of(config: Config) -> dict[str, Any]:
    """All settings and blocks by their dotted names, with their values; variables are replaced by theirs."""
    return dict(_walk(config.interpolate(), ""))


def _walk(block: Mapping[str, Any], inside: str) -> Iterator[tuple[str, Any]]:
    for name, value in block.items():
        yield f"{inside}{name}", value
        if isinstance(value, Mapping):
            yield from _walk(value, f"{inside}{name}.")


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of a config with other values. values: by dotted names of settings that exist; a block is replaced."""
    changed = config.copy()
    for name, value in values.items():
        *blocks, last = name.split(".")
        inside: dict[str, Any] = changed
        for block in blocks:
            inside = inside[block]
        inside[last] = filled_block(value)
    return changed


def filled_block(value: Any) -> Any:
    """A block such as {"@misc": "spacy-bertft.LoraTuning.v1"} with all its settings; other values as they are.

    Raises a ConfigError if there is no such function, or if it doesn't take these settings.
    """
    kind = next((key for key in value if key.startswith("@")), None) if isinstance(value, Mapping) else None
    if kind is None:
        return value
    if not registry.has(kind[1:], value[kind]):  # which filling passes over
        raise ConfigError(
            f"Found {kind} = {value[kind]!r}, which is not registered. Expected the name of a registered function. "
            "Correct it, or give the file that registers it with --code."
        )
    try:
        return registry.fill({"block": dict(value)})["block"]
    except Exception as error:  # raised by catalogue, confection or the function's module
        raise ConfigError(
            f"Found the block {dict(value)!r}, which spaCy refuses ({one_line(error)}). Expected a registered function "
            "with settings that it takes."
        ) from error


def differences(one: Config, other: Config) -> str:
    """The settings in which two configs differ: "training.dropout (0.1 and 0.2), …"."""
    left, right = settings_of(one), settings_of(other)
    found = [
        f"{name} ({left.get(name)!r} and {right.get(name)!r})"
        for name in left | right
        if left.get(name) != right.get(name)
        and not isinstance(left.get(name), Mapping)
        and not isinstance(right.get(name), Mapping)
    ]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
