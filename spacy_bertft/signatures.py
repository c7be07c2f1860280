"""Functions that take the fields of a dataclass as parameters, so that names, types and defaults are defined once.

spaCy, confection and typer read a function's parameters from its signature. Without this, all registered functions and
commands that share settings would have to list them.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any, TypeVar, get_type_hints

_F = TypeVar("_F", bound=Callable[..., Any])


def with_settings(
    settings: type[Any], annotate: Callable[[str, Any], Any] = lambda name, hint: hint
) -> Callable[[_F], _F]:
    """Give a function that ends in `**settings` the fields of a dataclass as keyword parameters.

    The function itself is unchanged: it gets only the arguments of the call, and `settings(**…)` checks their names.

    annotate: name and type of a field (with its `Annotated[…]`) -> the annotation of its parameter.
    """

    def decorate(function: _F) -> _F:
        own = inspect.signature(function, eval_str=True)
        named = [one for one in own.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        if len(named) == len(own.parameters):
            raise TypeError(f"{function.__name__}() takes no **settings to receive the fields of {settings.__name__}")
        hints = get_type_hints(settings, include_extras=True)
        fields = [
            Parameter(
                field.name,
                Parameter.KEYWORD_ONLY,
                default=_default(field),
                annotation=annotate(field.name, hints[field.name]),
            )
            for field in dataclasses.fields(settings)
            if field.init
        ]
        signature = own.replace(parameters=[*named, *fields])
        function.__signature__ = signature  # type: ignore[attr-defined]
        # typing.get_type_hints, which typer and pydantic call, reads these.
        function.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
        function.__annotations__["return"] = own.return_annotation
        return function

    return decorate


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return Parameter.empty if field.default is dataclasses.MISSING else field.default
