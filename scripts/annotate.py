"""Run a pipeline over the texts of a JSONL file and write what it found, for try_wheel.py to compare.

python scripts/annotate.py training/model-best assets/support/test.jsonl --output metrics/before.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def annotate(pipeline: str, texts: list[str]) -> list[dict[str, Any]]:
    """Entities and categories of each text, with their scores."""
    import spacy

    nlp = spacy.load(pipeline)
    return [
        {
            "entities": [[ent.start_char, ent.end_char, ent.label_, ent._.score] for ent in doc.ents],
            "categories": doc.cats,
        }
        for doc in nlp.pipe(texts)
    ]


def main(
    pipeline: Annotated[str, typer.Argument(help="Folder or name of a pipeline.")],
    texts: Annotated[Path, typer.Argument(help='JSONL file; each line has a "text".', exists=True, dir_okay=False)],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
) -> None:
    """Write the entities and categories that a pipeline finds in the texts of a file."""
    lines = texts.read_text(encoding="utf-8").split("\n")
    found = annotate(pipeline, [json.loads(line)["text"] for line in lines if line])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    n_entities = sum(len(text["entities"]) for text in found)
    typer.echo(f"{output}: {len(found)} texts, {n_entities} entities, by {pipeline}")


if __name__ == "__main__":
    typer.run(main)
