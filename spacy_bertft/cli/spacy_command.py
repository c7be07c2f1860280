"""Add `bertft` to spaCy's command line, which imports this module through its entry point.

Every spaCy command runs these imports, so they must stay as light as `spacy_bertft.cli`.
"""

from spacy.cli._util import app as spacy_app

from spacy_bertft.cli import app

spacy_app.add_typer(app, name="bertft")
