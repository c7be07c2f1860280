"""Make a small exported pipeline, its wheel, and the annotations that it should give: for `nox -s core`.

python tests/core/make_exported.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from check_exported import TEXTS, annotations
from pipelines import trained
from spacy.cli.package import package
from spacy.util import load_model
from tiny import make_encoder

from spacy_bertft.export import export


def main(folder: Path) -> None:
    """Train, export, package."""
    nlp = trained(make_encoder(folder / "encoder", "bert-uncased"))
    nlp.to_disk(folder / "trained")
    export(folder / "trained", folder / "exported", int8=True)
    found = annotations(load_model(folder / "exported"), TEXTS)
    assert any(text["entities"] for text in found)
    (folder / "expected.json").write_text(json.dumps(found), encoding="utf-8")
    (folder / "packages").mkdir()
    package(folder / "exported", folder / "packages", name="tiny", create_sdist=False, create_wheel=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
