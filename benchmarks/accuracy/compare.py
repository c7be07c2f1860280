"""Fine-tune one encoder by `spacy train` and by the Hugging Face Trainer: same data, same recipe, same environment.

    pip install -c constraints.txt -e ".[benchmarks]"
    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/accuracy/compare.py ner/wikigold --encoder bert-base-cased

The data folder holds ner/<name>/{train,dev,test}.iob (token TAB BIO2 tag), textcat/<name>/{train,dev,test}.jsonl
({"text", "label"}), multilabel/<name>/{train,dev,test}.jsonl ({"text", "labels"}) and
pair/<name>/{train,dev,test}.jsonl ({"text_a", "text_b", "label"}). Both train on the very same tokens, with AdamW,
warm-up over a tenth of the steps and linear decay, and both are scored by the same functions on their last weights.
Runs alternate, one of each a seed.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import hf_trainer
import scores
import spacy
import typer
from spacy.cli.train import train as spacy_train
from spacy.language import Language
from spacy.scorer import PRFScore
from spacy.tokens import Doc, DocBin

from spacy_bertft.convert import convert

ROOT = Path(__file__).parents[2]
SPLITS = ("train", "dev", "test")

SYSTEMS = ("spacy-bertft", "HF Trainer")

Data = Annotated[str, typer.Argument(help="Folder below SPACY_BERTFT_DATA: ner/…, textcat/…, multilabel/… or pair/…")]
Encoder = Annotated[str, typer.Option(help="Hub name, folder, or package/folder of an installed package.")]
Rate = Annotated[float, typer.Option(help="Highest learn rate.")]
Epochs = Annotated[int, typer.Option(help="Times over the training texts.")]
BatchSize = Annotated[int, typer.Option(help="Texts in a batch.")]
MergeSentences = Annotated[int, typer.Option(help="Neighbouring sentences that make one text (.iob).")]
Texts = Annotated[int | None, typer.Option(help="Train on so many of the training texts, drawn once; else on all.")]
DevTexts = Annotated[int, typer.Option(help="Development texts, drawn once.")]
TestTexts = Annotated[int, typer.Option(help="Test texts, drawn once.")]
Seeds = Annotated[int, typer.Option(help="Runs of each, with seeds 0, 1, …")]


def main(
    data: Data,
    encoder: Encoder,
    rate: Rate = 2e-4,
    epochs: Epochs = 5,
    batch_size: BatchSize = 8,
    merge_sentences: MergeSentences = 1,
    texts: Texts = None,
    seeds: Seeds = 2,
    output: Annotated[Path | None, typer.Option(help="JSON file for all figures.")] = None,
) -> None:
    """Compare on one data set and print dev and test scores of each run."""
    folder = Path(os.environ["SPACY_BERTFT_DATA"]) / data
    recipe = hf_trainer.Recipe(encoder, rate, epochs, batch_size)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        gold = prepare(folder, Path(work), merge_sentences, texts)
        for seed in range(seeds):
            for name, run in zip(SYSTEMS, (train_ours, train_hf), strict=True):
                start = time.perf_counter()
                predicted = run(gold, recipe, seed, Path(work))
                seconds = time.perf_counter() - start
                found = {split: score(gold[split], predicted[split]) for split in SPLITS[1:]}
                rows.append({"system": name, "seed": seed, "seconds": round(seconds), **found})
                print(
                    f"{name:14} seed {seed}  dev {found['dev']:.4f}  test {found['test']:.4f}  {seconds:.0f} s",
                    flush=True,
                )
    print(*summary(rows), sep="\n")
    if output is not None:
        setup = {"data": data, "merge_sentences": merge_sentences, "texts": texts, **asdict(recipe)}
        output.write_text(json.dumps({**setup, "runs": rows}, indent=1) + "\n")


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines with the mean and the standard deviation over seeds: of each system, and of their paired difference."""
    one, two = ([row for row in rows if row["system"] == name] for name in SYSTEMS)
    differences = [
        {split: ours[split] - theirs[split] for split in SPLITS[1:]} for ours, theirs in zip(one, two, strict=True)
    ]
    sides = zip((*SYSTEMS, "difference"), (one, two, differences), strict=True)
    return [
        f"{name:14} mean    " + "  ".join(f"{split} {spread(runs, split)}" for split in SPLITS[1:])
        for name, runs in sides
    ]


def spread(rows: Sequence[dict[str, Any]], key: str) -> str:
    """The mean of a value over runs, and its standard deviation if there are several."""
    values = [row[key] for row in rows]
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def prepare(
    folder: Path, work: Path, merge_sentences: int, texts: int | None = None, **others: int | None
) -> dict[str, list[Doc]]:
    """Convert the data to .spacy files in `work`, and read them back as gold Docs.

    texts: the number of training texts to keep; None: all. others: the same for dev and test.
    """
    files = [next(folder.glob(f"{split}.*")) for split in SPLITS]
    convert(files, work, merge_sentences=merge_sentences, first_key="text_a", second_key="text_b")
    gold = read(work)
    for split, number in {"train": texts, **others}.items():
        if number is not None and number < len(gold[split]):
            gold[split] = random.Random(0).sample(gold[split], number)
            DocBin(docs=gold[split], store_user_data=True).to_disk(work / f"{split}.spacy")
    return gold


def read(work: Path) -> dict[str, list[Doc]]:
    """The gold Docs in the .spacy files that `prepare` left in `work`."""
    vocab = spacy.blank("en").vocab
    return {split: list(DocBin().from_disk(work / f"{split}.spacy").get_docs(vocab)) for split in SPLITS}


def train_ours(gold: dict[str, list[Doc]], recipe: hf_trainer.Recipe, seed: int, work: Path) -> dict[str, list[Doc]]:
    """Train with the config in configs/ and predict dev and test."""
    return predict(train(gold, recipe, seed, work), gold)


def train(
    gold: dict[str, list[Doc]],
    recipe: hf_trainer.Recipe,
    seed: int,
    work: Path,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Train with the config in configs/ on the files that `prepare` left in `work`; the last weights."""
    settings = settings or {}
    paths = {split: str(work / f"{split}.spacy") for split in ("train", "dev")}
    head = head_of(gold)
    if head != "pair":
        settings = {"corpora.train.gold_preproc": True, **settings}
    return train_config(head, paths, len(gold["train"]), recipe, seed, work, settings)


def head_of(gold: dict[str, list[Doc]]) -> str:
    """The config in configs/ for such data, which is also the name of the head in it."""
    if "segments" in gold["train"][0].spans:
        return "pair"
    if not gold["train"][0].cats:
        return "ner"
    return "textcat" if scores.exclusive(gold["train"]) else "textcat_multilabel"


def train_config(
    config: str,
    paths: dict[str, str],
    n_texts: int,
    recipe: hf_trainer.Recipe,
    seed: int,
    work: Path,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Train with a config in configs/ and the recipe; the last weights."""
    steps = recipe.n_steps(n_texts)
    overrides = {
        **{f"paths.{split}": path for split, path in paths.items()},
        "system.seed": seed,
        "components.encoder.model.name": recipe.encoder,
        "training.batcher.size": recipe.batch_size,
        "training.max_steps": steps,
        "training.max_epochs": 0,
        "training.eval_frequency": steps,
        "training.optimizer.learn_rate.initial_rate": recipe.rate,
        **(settings or {}),
    }
    spacy_train(ROOT / f"configs/{config}.cfg", work / "ours", overrides=overrides)
    return work / "ours" / "model-last"


def predict(pipeline: Path, gold: dict[str, list[Doc]]) -> dict[str, list[Doc]]:
    """The gold tokens of dev and test, annotated by a saved pipeline."""
    return annotate(spacy.load(pipeline), gold)


def annotate(nlp: Language, gold: dict[str, list[Doc]]) -> dict[str, list[Doc]]:
    """The gold tokens of dev and test, annotated by a pipeline."""
    return {split: list(nlp.pipe(bare(doc) for doc in gold[split])) for split in SPLITS[1:]}


def train_hf(gold: dict[str, list[Doc]], recipe: hf_trainer.Recipe, seed: int, work: Path) -> dict[str, list[Doc]]:
    """Train with the Trainer and predict dev and test."""
    return hf_trainer.run(gold["train"], {split: gold[split] for split in SPLITS[1:]}, recipe, seed, work / "hf")


def bare(doc: Doc) -> Doc:
    """The same tokens and segments without annotation."""
    copy = Doc(doc.vocab, words=[token.text for token in doc], spaces=[bool(token.whitespace_) for token in doc])
    if "segments" in doc.spans:
        copy.spans["segments"] = [copy[span.start : span.end] for span in doc.spans["segments"]]
    return copy


def score(gold: list[Doc], predicted: list[Doc]) -> float:
    """F1 over whole entities, accuracy of exclusive categories, or micro F1 of others."""
    if gold[0].cats:
        return scores.of_categories(gold, predicted)["micro_f"]
    counts = PRFScore()
    for one, two in zip(gold, predicted, strict=True):
        counts.score_set(*({(ent.start, ent.end, ent.label_) for ent in doc.ents} for doc in (two, one)))
    return counts.fscore


if __name__ == "__main__":
    typer.run(main)
