"""Templates that lie beside the modules that fill them."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates(package: str, *, html: bool = False) -> Environment:
    """The templates in the folder of a package. A name that is not given is an error.

    html: escape the strings that are filled in.
    """
    return Environment(
        loader=PackageLoader(package, "."),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
        undefined=StrictUndefined,
        autoescape=html,
    )
