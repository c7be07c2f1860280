"""Makes `python -m spacy bertft …` work: spaCy's command line imports this module by its entry point.

Every spaCy command pays for what is imported here, so it must stay as light as `spacy_bertft.cli`.
"""

from spacy.cli._util import app as spacy_app

from spacy_bertft.cli import app

spacy_app.add_typer(app, name="bertft")
