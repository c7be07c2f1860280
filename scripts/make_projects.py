"""Write the projects in projects/, which `spacy project clone` copies, with texts of assets/support.

python scripts/make_projects.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Texts of each part: enough to see something learned, few enough to train on in minutes.
SIZES = {"train": 160, "dev": 50, "test": 50}
HEADER = "# Written by scripts/make_projects.py of spacy-bertft. In a clone, change it as you like.\n"


@dataclass(frozen=True)
class Project:
    """A project: its title, the task of `bertft init`, and the keys of a message that it keeps: old -> new."""

    title: str
    task: str
    keys: dict[str, str]


PROJECTS = {
    "ner": Project("Named entities", "ner", {"spans": "spans"}),
    "textcat": Project("Categories of texts", "textcat", {"category": "label"}),
    "ner_textcat": Project(
        "Named entities and categories on one encoder",
        "ner+textcat",
        {"spans": "spans", "category": "label"},
    ),
}

TEMPLATE = """title: "{title}"
description: >
  Fine-tunes a BERT encoder on the messages in assets/ (from spacy-bertft, MIT licence), evaluates the pipeline, writes
  a report to open in a browser, and packages the pipeline as a wheel. Needs spacy-bertft with its extra `project`. To
  use texts of your own, replace the files in assets/; if their names or keys differ, change the commands.

vars:
  lang: en
  # Hub name or folder of the pretrained encoder.
  encoder: sentence-transformers/all-MiniLM-L6-v2
  # The training ends after this many steps; 0: after the epochs in config.cfg.
  steps: 0
  # Name and version of the packaged pipeline: <lang>_<name>-<version>.
  name: messages
  version: 0.1.0

directories: ["assets", "training", "metrics", "packages"]

workflows:
  all: [init, train, evaluate, report, package]

commands:
  - name: init
    help: "Write config.cfg, with settings that suit the texts and the encoder"
    script:
      - >-
        python -m spacy bertft init {task} --train assets/train.jsonl --dev assets/dev.jsonl
        --encoder ${{vars.encoder}} --lang ${{vars.lang}} --output config.cfg --force
    deps: [assets/train.jsonl, assets/dev.jsonl]
    outputs: [config.cfg]

  - name: train
    help: "Fine-tune the encoder; the best step on the dev texts is kept"
    script:
      - python -m spacy bertft train config.cfg --output training --training.max_steps ${{vars.steps}}
    deps: [config.cfg, assets/train.jsonl, assets/dev.jsonl]
    outputs: [training/model-best]

  - name: evaluate
    help: "Score the pipeline on the test texts: metrics/test.json"
    script:
      - python -m spacy bertft evaluate training/model-best assets/test.jsonl --labels --output metrics/test.json
    deps: [training/model-best, assets/test.jsonl]
    outputs: [metrics/test.json]

  - name: report
    help: "Write a report on the pipeline: metrics/report.html, a page to open in a browser"
    script:
      - >-
        python -m spacy bertft report training/model-best assets/test.jsonl --train assets/train.jsonl
        --output metrics/report.html
    deps: [training/model-best, assets/test.jsonl, assets/train.jsonl]
    outputs: [metrics/report.html]

  - name: package
    help: "Build a wheel of the pipeline"
    script:
      - >-
        python -m spacy package training/model-best packages --name ${{vars.name}} --version ${{vars.version}}
        --build wheel --force
    deps: [training/model-best]
    outputs: ["packages/${{vars.lang}}_${{vars.name}}-${{vars.version}}/dist"]
"""


def files_of(name: str) -> dict[str, str]:
    """The files of a project: path in its folder -> content."""
    project = PROJECTS[name]
    config = HEADER + TEMPLATE.format(title=project.title, task=project.task)
    return {"project.yml": config, **{f"assets/{part}.jsonl": _texts(part, project.keys) for part in SIZES}}


def _texts(part: str, keys: dict[str, str]) -> str:
    """The first messages of a part (their order is random), with the keys that the project needs."""
    lines = (ROOT / f"assets/support/{part}.jsonl").read_text(encoding="utf-8").splitlines()[: SIZES[part]]
    messages = (json.loads(line) for line in lines)
    kept = ({"text": one["text"], **{new: one[old] for old, new in keys.items()}} for one in messages)
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in kept)


if __name__ == "__main__":
    for name in PROJECTS:
        for path, content in files_of(name).items():
            target = ROOT / "projects" / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content, encoding="utf-8")
