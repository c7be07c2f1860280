"""Functions whose settings are the fields of a dataclass, so that names, types and defaults stand in one place.

spaCy, confection and typer read what a function takes off its signature: registered functions and commands that share
settings would each have to list them.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any, TypeVar, get_type_hints

F = TypeVar("F", bound=Callable[..., Any])


def with_settings(
    settings: type[Any], annotate: Callable[[str, Any], Any] = lambda name, hint: hint
) -> Callable[[F], F]:
    """Give a function that ends in `**settings` the fields of a dataclass as keyword parameters.

    annotate: name and type of a field (with its `Annotated[…]`) -> the annotation of its parameter.
    """

    def decorate(function: F) -> F:
        own = inspect.signature(function, eval_str=True)
        hints = get_type_hints(settings, include_extras=True)
        fields = [
            Parameter(
                field.name,
                Parameter.KEYWORD_ONLY,
                default=Parameter.empty if field.default is dataclasses.MISSING else field.default,
                annotation=annotate(field.name, hints[field.name]),
            )
            for field in dataclasses.fields(settings)
        ]
        named = [one for one in own.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        signature = own.replace(parameters=[*named, *fields])
        function.__signature__ = signature  # type: ignore[attr-defined]
        function.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
        function.__annotations__["return"] = own.return_annotation
        return function

    return decorate
