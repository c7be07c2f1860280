"""One job of run.py in a process of its own; the last line of stdout is what it found, as JSON.

python worker.py KIND JOB

KIND is one of KINDS below; JOB is a JSON object with what that kind reads. `peer` runs where this package is not
installed, so what needs it is imported by the others alone.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "benchmarks" / folder) for folder in ("accuracy", "speed")]

Job = dict[str, Any]
Found = dict[str, Any]


def prepare(job: Job) -> Found:
    """Write the .spacy files of a data set; how many texts there are to train on, and which head is for them."""
    import compare

    Path(job["output"]).mkdir(parents=True, exist_ok=True)
    gold = compare.prepare(Path(job["source"]), Path(job["output"]), 1, job["texts"])
    return {"texts": len(gold["train"]), "head": compare.head_of(gold)}


def ours(job: Job) -> Found:
    """Train this package's head and encoder, and predict."""
    settings: dict[str, Any] = {
        "components.encoder.model.name": job["encoder"],
        "components.encoder.model.precision": "bfloat16" if job["bfloat16"] else "float32",
        "training.optimizer.learn_rate.initial_rate": job["rate"],
    }
    if job["by_length"]:
        settings["training.batcher"] = {
            "@batchers": "spacy-bertft.batch_by_subwords.v1",
            "tokenizer": job["encoder"],
            "min_texts": job["batch_size"],
            "max_texts": job["batch_size"],
            # As many batches are sorted together as by the Trainer's sampler.
            "buffer": max(1, min(50, job["texts"] // (4 * job["batch_size"]))) * job["batch_size"],
        }
    else:
        settings["training.batcher.size"] = job["batch_size"]
    return _spacy(job, _config(job), settings)


def peer(job: Job) -> Found:
    """Train spaCy's head and spacy-transformers' encoder, and predict."""
    from peer import peer_models

    config, head, models = _config(job), job["head"], peer_models(job["encoder"])
    components = {
        "transformer": {"factory": "transformer", "model": models["transformer"]},
        head: {"factory": head, "model": models[head]},
    }
    config["components"], config["nlp"]["pipeline"] = components, list(components)
    config["training"]["optimizer"]["learn_rate"] = {
        "@schedules": "warmup_linear.v1",
        "warmup_steps": job["steps"] // 10,
        "total_steps": job["steps"],
        "initial_rate": job["rate"],
    }
    return _spacy(job, config, {"training.batcher.size": job["batch_size"]})


def _config(job: Job) -> Any:
    from spacy.util import load_config

    return load_config(ROOT / f"configs/{job['head']}.cfg")


def _spacy(job: Job, config: Any, settings: dict[str, Any]) -> Found:
    """Train as `spacy train` does, without evaluating and saving, and predict."""
    from spacy.training import loop
    from spacy.training.initialize import init_nlp
    from spacy.util import load_config_from_str

    settings = {
        **settings,
        **{f"paths.{split}": str(Path(job["data"]) / f"{split}.spacy") for split in ("train", "dev")},
        "system.seed": job["seed"],
        "training.max_epochs": job["epochs"],
        "training.max_steps": 0,
        "corpora.train.gold_preproc": True,
    }
    _set_threads(job)
    nlp = init_nlp(load_config_from_str(config.to_str(), overrides=settings))
    batches, starts = loop.create_train_batches, []

    def create_train_batches(nlp: Any, corpus: Any, batcher: Any, max_epochs: int) -> Iterator[Any]:
        examples = list(corpus(nlp))
        starts.append(time.perf_counter())
        n_steps = 0
        for batch in batches(nlp, lambda _: examples, batcher, max_epochs):
            yield batch
            n_steps += 1
        assert n_steps == job["steps"], f"Found {n_steps} steps, expected {job['steps']}."

    with (
        patch.object(loop, "create_train_batches", create_train_batches),
        patch.object(loop, "create_evaluation_callback", lambda *_: lambda: (0.0, {})),
    ):
        loop.train(nlp, None)
    found = _figures(starts[0])
    gold = _read(job, nlp.vocab)
    _write(job, {split: nlp.pipe(map(_bare, docs)) for split, docs in gold.items() if split != "train"})
    return found


def trainer(job: Job) -> Found:
    """Train with the Hugging Face Trainer, and predict."""
    from dataclasses import fields

    import hf_trainer
    import spacy
    from transformers import TrainingArguments

    settings: dict[str, Any] = {}
    if job["by_length"]:
        # transformers 5 has the strategies in one setting.
        new = "train_sampling_strategy" in {field.name for field in fields(TrainingArguments)}
        settings = {"train_sampling_strategy": "group_by_length"} if new else {"group_by_length": True}
    settings.update(bf16=job["bfloat16"], use_cpu=True)
    _set_threads(job)
    gold = _read(job, spacy.blank("en").vocab)
    recipe = hf_trainer.Recipe(job["encoder"], job["rate"], job["epochs"], job["batch_size"])
    made, side = hf_trainer.build(gold.pop("train"), recipe, job["seed"], Path(job["output"]) / "trainer", **settings)
    start = time.perf_counter()
    made.train()
    found = _figures(start)
    assert made.state.global_step == job["steps"], f"Found {made.state.global_step} steps, expected {job['steps']}."
    _write(job, hf_trainer.predict(made, side, gold))
    return found


def score(job: Job) -> Found:
    """The scores of what was predicted."""
    import compare
    import spacy
    from spacy.tokens import DocBin

    gold = compare.read(Path(job["data"]))
    vocab = spacy.blank("en").vocab
    found = {}
    for split in compare.SPLITS[1:]:
        predicted = DocBin().from_disk(Path(job["output"]) / f"{split}.spacy").get_docs(vocab)
        found[split] = compare.score(gold[split], list(predicted))
    return found


def _set_threads(job: Job) -> None:
    import torch

    torch.set_num_threads(job["threads"])


def _figures(start: float) -> Found:
    """The seconds since then, and the peak memory of this process so far, in MiB."""
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _read(job: Job, vocab: Any) -> dict[str, list[Any]]:
    from spacy.tokens import DocBin

    files = {split: Path(job["data"]) / f"{split}.spacy" for split in ("train", "dev", "test")}
    return {split: list(DocBin().from_disk(path).get_docs(vocab)) for split, path in files.items()}


def _bare(doc: Any) -> Any:
    """The same tokens without annotation."""
    from spacy.tokens import Doc

    return Doc(doc.vocab, words=[token.text for token in doc], spaces=[bool(token.whitespace_) for token in doc])


def _write(job: Job, predicted: dict[str, Iterable[Any]]) -> None:
    from spacy.tokens import DocBin

    for split, docs in predicted.items():
        DocBin(docs=docs).to_disk(Path(job["output"]) / f"{split}.spacy")


KINDS = {"prepare": prepare, "ours": ours, "peer": peer, "trainer": trainer, "score": score}

if __name__ == "__main__":
    print(json.dumps(KINDS[sys.argv[1]](json.loads(sys.argv[2]))))
