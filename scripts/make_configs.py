"""Write the training configs in configs/, as `bertft init` does without data.

python scripts/make_configs.py
"""

from __future__ import annotations

import os
from pathlib import Path

from spacy_bertft.jobs.recipes.init import init

ROOT = Path(__file__).parents[1]
# Name of the config -> task
CONFIGS = {
    "ner": "ner",
    "textcat": "textcat",
    "textcat_multilabel": "multilabel",
    "ner_textcat": "ner+textcat",
    "textcat_two_heads": "textcat+textcat",
    "intent_slots": "intents",
    "pair": "pair",
    "qa": "qa",
    "regression": "regression",
    "spancat": "spancat",
}

if __name__ == "__main__":
    os.chdir(ROOT)  # the command at the top of a config names it as seen from here
    for name, task in CONFIGS.items():
        init(task, Path("configs", f"{name}.cfg"), force=True)
