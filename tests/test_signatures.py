"""Functions that take the fields of a dataclass."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_type_hints

import pytest
from confection import Config, ConfigValidationError
from confection import registry as confection_registry
from spacy.util import registry
from typer.testing import CliRunner

from spacy_bertft.signatures import with_settings


@dataclass(frozen=True)
class Settings:
    depth: Annotated[int, "How deep."]
    name: Annotated[str, "What it is called."] = "it"
    loud: Annotated[bool, "Whether it makes noise."] = False
    parts: tuple[str, ...] = field(default_factory=tuple)
    size: int = field(default=0, init=False)


@with_settings(Settings)
def make(first: str, second: int = 2, **settings: Any) -> tuple[str, int, dict[str, Any]]:
    """Makes."""
    return first, second, settings


def test_the_fields_are_parameters_behind_the_functions_own():
    parameters = inspect.signature(make).parameters
    assert list(parameters) == ["first", "second", "depth", "name", "loud", "parts"]
    assert {name for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY} == set(parameters) - {
        "first",
        "second",
    }
    assert parameters["depth"].default is inspect.Parameter.empty
    assert [parameters[name].default for name in ("second", "name", "loud", "parts")] == [2, "it", False, ()]


def test_their_types_are_those_of_the_fields():
    hints = get_type_hints(make)
    assert hints == {
        "first": str, "second": int, "depth": int, "name": str, "loud": bool, "parts": tuple[str, ...],
        "return": tuple[str, int, dict[str, Any]],
    }  # fmt: skip
    assert inspect.signature(make).return_annotation == hints["return"]
    assert get_args(inspect.signature(make).parameters["depth"].annotation) == (int, "How deep.")


def test_the_function_itself_is_called_as_before():
    assert make("a", depth=3) == ("a", 2, {"depth": 3})
    assert (make.__name__, make.__doc__) == ("make", "Makes.")
    with pytest.raises(TypeError, match="'width'"):
        Settings(**make("a", depth=1, width=2)[2])


def test_annotations_can_be_changed():
    def told(name: str, hint: Any) -> Any:
        return Annotated[get_args(hint)[0], f"{name}: {get_args(hint)[1]}"] if get_args(hint)[1:] else hint

    @dataclass
    class Two:
        depth: Annotated[int, "How deep."] = 1

    @with_settings(Two, told)
    def change(**settings: Any) -> None: ...

    assert get_args(inspect.signature(change).parameters["depth"].annotation) == (int, "depth: How deep.")


def test_a_function_without_settings_and_a_name_given_twice_are_mistakes():
    with pytest.raises(TypeError, match=r"plain\(\) takes no \*\*settings to receive the fields of Settings"):

        @with_settings(Settings)
        def plain(first: str) -> None: ...

    with pytest.raises(ValueError, match="name"):

        @with_settings(Settings)
        def twice(name: str, **settings: Any) -> None: ...


@pytest.fixture
def registered():
    registry.misc("with-settings-test.v1", func=make)
    return {"made": {"@misc": "with-settings-test.v1", "first": "a", "depth": 3}}


def test_confection_fills_and_checks_them(registered):
    assert registry.resolve(registered)["made"][2]["depth"] == 3
    filled = registry.fill(registered)["made"]
    assert (filled["name"], filled["loud"]) == ("it", False)
    for wrong in ({"depth": "deep"}, {"loud": "very"}, {"width": 3}):
        with pytest.raises(ConfigValidationError, match=next(iter(wrong))):
            registry.resolve({"made": registered["made"] | wrong})
    del registered["made"]["depth"]
    with pytest.raises(ConfigValidationError, match="depth"):
        registry.resolve(Config(registered))
    assert issubclass(registry, confection_registry)


def test_typer_makes_options_of_them():
    import typer

    app = typer.Typer(rich_markup_mode=None)
    called = []

    @app.command()
    @with_settings(
        Settings, lambda name, hint: Annotated[get_args(hint)[0], typer.Option(help=str(get_args(hint)[-1]))]
    )
    def command(first: str, **settings: Any) -> None:
        called.append((first, settings))

    assert CliRunner().invoke(app, ["a", "--depth", "3", "--loud"]).exit_code == 0
    assert called[0][0] == "a"
    assert {name: called[0][1][name] for name in ("depth", "name", "loud")} == {"depth": 3, "name": "it", "loud": True}
    assert CliRunner().invoke(app, ["a"]).exit_code == 2
    text = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    for said in ("--depth", "How deep.", "--loud", "--no-loud", "Whether it makes noise."):
        assert said in text
