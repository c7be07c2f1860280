"""What a search varies: ranges and choices for settings of a config, read from a file in the syntax of configs.

    [training.optimizer.learn_rate.initial_rate]
    low = 1e-5
    high = 3e-4
    log = true

    [components.encoder.model.name]
    choices = ["bert-base-cased","roberta-base"]

A section is a setting or a block of the config; values are JSON, as in configs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from configparser import Error as SyntaxProblem
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.tune.configs import filled_block

_DIGITS = 4  # significant ones that trials use; more would only look precise


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers from `low` to `high`, both included."""

    name: str  # of the setting, dotted
    low: float
    high: float
    whole: bool  # integers only
    log: bool = False  # equal ratios are equally likely, instead of equal differences
    step: float | None = None  # only low, low + step, …; None: any number, or any integer

    def value(self, found: Any) -> float:
        """The value for the config, from Optuna's."""
        if self.whole:
            return int(found)
        return min(max(float(f"{found:.{_DIGITS}g}"), self.low), self.high)

    def place(self, value: Any) -> float | None:
        """Optuna's value for one of the config; None if it is outside."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        if self.step is not None:
            steps = (value - self.low) / self.step
            return value if abs(steps - round(steps)) < 1e-6 else None
        return value

    def lines(self) -> list[str]:
        """The lines of a space file that say the same."""
        lines = [f"low = {self.low!r}", f"high = {self.high!r}"]
        return lines + ["log = true"] * self.log + ([] if self.step is None else [f"step = {self.step!r}"])


@dataclass(frozen=True, slots=True)
class Choices:
    """A list of values, or of whole blocks."""

    name: str  # of the setting or block, dotted
    options: tuple[Any, ...]

    def value(self, found: Any) -> Any:
        """The value for the config, from Optuna's."""
        return json.loads(found)

    def place(self, value: Any) -> str | None:
        """Optuna's value for one of the config; None if it is not among the choices."""
        same = (option for option in self.options if filled_block(option) == value)
        return next((json.dumps(option) for option in same), None)

    def lines(self) -> list[str]:
        """The lines of a space file that say the same."""
        if not any(isinstance(option, Mapping) for option in self.options):
            return [f"choices = {json.dumps(list(self.options))}"]
        return ["choices = [", ",\n".join(f"    {json.dumps(option)}" for option in self.options), "    ]"]


Setting = Range | Choices
Space = tuple[Setting, ...]


def space_text(space: Space) -> str:
    """A space as a file."""
    return "\n\n".join("\n".join([f"[{setting.name}]", *setting.lines()]) for setting in space) + "\n"


def read_space(path: Path, settings: Mapping[str, Any]) -> Space:
    """Read a space file. settings: of the config, by dotted names, blocks included."""
    parser = ConfigParser(interpolation=None, delimiters=("=",), default_section="")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=str(path))
    except (OSError, UnicodeDecodeError, SyntaxProblem) as error:
        said = " ".join(str(error).split())
        raise _wrong(str(path), f"a space file that can't be read ({said})", _FORM, "correct the file") from error
    if not parser.sections():
        raise _wrong(str(path), "no settings", _FORM, "add at least one")
    where = {name: f"{path}, [{name}]" for name in parser.sections()}
    _check_nesting(parser.sections(), path)
    return tuple(
        _setting(
            name, {key: _json(where[name], key, text) for key, text in parser[name].items()}, settings, where[name]
        )
        for name in parser.sections()
    )


_FORM = "a section per setting of the config, such as [training.dropout], with low and high, or with choices"


def _wrong(where: str, found: str, expected: str, fix: str) -> ConfigError:
    return ConfigError(f"{where}: found {found}; expected {expected}; fix: {fix}")


def _json(where: str, key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise _wrong(
            where,
            f"{key} = {text}",
            'a JSON value as in configs: 0.1, true, null, "text", ["a", "b"] or {"@misc": "…"}',
            "quote texts, and write true, false and null in lower case",
        ) from None


def _check_nesting(names: Sequence[str], path: Path) -> None:
    for name in names:
        inside = next((other for other in names if name.startswith(f"{other}.")), None)
        if inside is not None:
            raise _wrong(
                str(path),
                f"[{name}] and [{inside}], which holds it",
                "settings outside each other",
                "remove one of them",
            )


def _setting(name: str, given: dict[str, Any], settings: Mapping[str, Any], where: str) -> Setting:
    if name not in settings:
        raise _wrong(where, "no such setting in the config", "one that the config has", _did_you_mean(name, settings))
    unknown = set(given) - {"low", "high", "log", "step", "choices"}
    if (
        unknown
        or ("choices" in given) == ("low" in given and "high" in given)
        or ("choices" in given and len(given) > 1)
    ):
        found = ", ".join(given) or "nothing"
        raise _wrong(where, found, "low and high (and log or step), or else choices", "correct the section")
    if "choices" in given:
        return _choices(name, given["choices"], where)
    return _range(name, given, settings[name], where)


def _did_you_mean(name: str, settings: Mapping[str, Any]) -> str:
    last = name.rpartition(".")[2]
    same = [known for known in settings if known.rpartition(".")[2] == last]
    found = same[:3] or get_close_matches(name, settings, n=1)
    return f"did you mean {' or '.join(found)}?" if found else "correct the name"


def _choices(name: str, options: Any, where: str) -> Choices:
    if not isinstance(options, list) or not options:
        raise _wrong(where, f"choices = {json.dumps(options)}", "a list of values", "give at least one")
    texts = [json.dumps(option) for option in options]
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise _wrong(where, f"{twice} twice", "each choice once", "remove one of them")
    for option in options:
        try:
            filled_block(option)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    return Choices(name, tuple(options))


def _range(name: str, given: dict[str, Any], current: Any, where: str) -> Range:
    for key in ("low", "high", "step"):
        value = given.get(key, 1)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or abs(value) == float("inf")
            or value != value
        ):
            raise _wrong(where, f"{key} = {json.dumps(value)}", "a number", "correct it, or give choices")
    low, high, step, log = given["low"], given["high"], given.get("step"), given.get("log", False)
    if isinstance(current, bool | str | list | Mapping):
        kind = "a block" if isinstance(current, Mapping) else f"{current!r} in the config"
        raise _wrong(where, f"low and high, but the setting is {kind}", "a setting that is a number", "give choices")
    if low > high:
        raise _wrong(where, f"low = {low}, which is above high = {high}", "low below high", "swap them")
    if not isinstance(log, bool):
        raise _wrong(where, f"log = {json.dumps(log)}", "true or false", "correct it")
    if log and low <= 0:
        raise _wrong(where, f"log = true with low = {low}", "low above 0", "raise low, or remove log")
    if step is not None and (log or step <= 0 or step > max(high - low, 0)):
        raise _wrong(
            where, f"step = {step}", "a step above 0 and within the range, without log", "correct or remove it"
        )
    if step is not None and abs((high - low) / step - round((high - low) / step)) > 1e-6:
        raise _wrong(where, f"low = {low}, high = {high}, step = {step}", "whole steps from low to high", "change high")
    numbers = [number for number in (low, high, step) if number is not None]
    whole = all(isinstance(number, int) for number in numbers) and not isinstance(current, float)
    if isinstance(current, int) and not whole:
        raise _wrong(where, f"{', '.join(map(str, numbers))}", f"integers, as the config has {current}", "round them")
    if whole:
        return Range(name, low, high, whole=True, log=log, step=step)
    return Range(name, float(low), float(high), whole=False, log=log, step=None if step is None else float(step))
