"""SetFit on the texts of few_shot.py, in an environment of its own: reads a JSON object, writes another one."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments


def main(given: dict[str, Any]) -> dict[str, Any]:
    """Train with SetFit's defaults: the labels that it predicts, and CPU seconds of loading and training."""
    torch.set_num_threads(1)
    names = sorted(set(given["labels"]))
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(output_dir=folder, seed=given["seed"], report_to="none", save_strategy="no")
        model = SetFitModel.from_pretrained(given["encoder"], labels=names)
        examples = Dataset.from_dict({"text": given["train"], "label": [names.index(one) for one in given["labels"]]})
        Trainer(model=model, args=arguments, train_dataset=examples).train()
    seconds = time.process_time() - start
    return {"predicted": list(map(str, model.predict(given["test"]))), "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
