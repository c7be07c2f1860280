"""What a trained pipeline forgets when it learns one more label from texts annotated for that label alone.

    export SPACY_BERTFT_DATA=/folder/of/data
    python benchmarks/accuracy/forgetting.py ner/wikigold --encoder bert-base-cased --new LOC

The data folder holds ner/<name>/{train,test}.iob (token TAB BIO2 tag) and multilabel/<name>/{train,test}.jsonl
({"text", "labels"}). A pipeline learns all labels but the new one from the first half of the training texts. Then the
new label is added, and learned from the other half, which is annotated for it alone. The scores are F1 on the test
texts, of the old labels together and of the new one.

The texts of the second half say nothing of the old labels. Of entities there are three ways to say so (GOLDS), because
a head that sees nothing but entities finds them everywhere. Rehearsal is on the texts of the update themselves, or on
those of the first half, without annotation or with it.

Exclusive categories (intent/<name>/{train,test}.jsonl, {"text", "label"}) are learned from those texts of the second
half that are of the new one.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import spacy
import typer
from compare import BatchSize, Encoder, Rate, bare
from spacy.language import Language
from spacy.scorer import PRFScore
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import fix_random_seed, minibatch, registry

from spacy_bertft.convert import convert

# What is said of the tokens that no entity of the new label covers, and of the other categories.
GOLDS = {
    "outside": "other tokens outside",
    "missing": "other tokens missing",
    "found": "entities that the old pipeline finds missing",
    "cats": "other labels missing",
    "alone": "texts of the new label alone",
}
REHEARSALS = {
    "": "no rehearsal",
    "same": "rehearsal on the same texts",
    "annotated": "rehearsal on the same texts, annotated",
    "old": "rehearsal on texts of the first half",
    "found": "rehearsal on texts of the first half, annotated by the old pipeline",
}


@dataclass(frozen=True)
class Run:
    """How one pipeline is trained."""

    rate: float
    epochs: int
    batch_size: int
    seed: int
    drop: float = 0.1


def main(
    data: Annotated[str, typer.Argument(help="Folder below SPACY_BERTFT_DATA: ner/…, multilabel/… or intent/…")],
    encoder: Encoder,
    new: Annotated[str, typer.Option(help="The label that is added.")],
    old: Annotated[list[str] | None, typer.Option(help="The labels before it; all others if left out.")] = None,
    texts: Annotated[int, typer.Option(help="Training texts of both halves; 0: all.")] = 0,
    rate: Rate = 3e-4,
    epochs: Annotated[int, typer.Option(help="Times over the first half.")] = 6,
    new_epochs: Annotated[int, typer.Option(help="Times over the second half.")] = 2,
    batch_size: BatchSize = 16,
    seeds: Annotated[int, typer.Option(help="Runs of each, with seeds 0, 1, …")] = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="Variants: all, GOLD, or GOLD+REHEARSAL; each of them if left out.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for all figures.")] = None,
) -> None:
    """Print a row per variant and seed, then the means."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        train, test = _read(Path(os.environ["SPACY_BERTFT_DATA"]) / data, Path(work))
    exclusive = bool(train[0].cats) and not data.startswith("multilabel/")
    head = "bertft_textcat" if exclusive else "bertft_textcat_multilabel" if train[0].cats else "bertft_ner"
    known = old or sorted(_labels(train) - {new})
    train, tested = _with_labels(train, [*known, new]), _with_labels(test, [*known, new])

    def show(name: str, seed: int, nlp: Language) -> None:
        predicted = list(nlp.pipe(map(bare, tested)))
        of_old, of_new = (_f1(tested, predicted, labels) for labels in (known, [new]))
        rows.append({"variant": name, "seed": seed, "old": of_old, "new": of_new})
        print(f"{name:85} seed {seed}  old {of_old:5.1f}  new {of_new:5.1f}", flush=True)

    for seed in range(seeds):
        chosen = list(train)
        random.Random(seed).shuffle(chosen)
        chosen = chosen[: texts or None]
        first, second = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
        if exclusive:
            first, second = [doc for doc in first if not doc.cats[new]], [doc for doc in second if doc.cats[new]]
        run = Run(rate, epochs, batch_size, seed)
        start = _blank(encoder, head)
        _learn(start, [_annotated(doc, known) for doc in first], None, run)
        show("before", seed, start)
        for variant in only or _variants(head):
            gold, _, rehearsal = variant.partition("+")
            if gold == "all":
                nlp = _blank(encoder, head)
                _learn(nlp, [_annotated(doc, [*known, new]) for doc in chosen], None, run)
                show("all texts, all labels, from the start", seed, nlp)
                continue
            nlp = _blank(encoder, head).from_bytes(start.to_bytes())
            nlp.get_pipe("head").add_label(new)
            golds = _golds(gold, second, new, start)
            _learn(nlp, golds, _rehearsed(rehearsal, first, second, new, start), replace(run, epochs=new_epochs))
            show(f"{GOLDS[gold]}, {REHEARSALS[rehearsal]}", seed, nlp)
    for name in dict.fromkeys(row["variant"] for row in rows):
        means = {key: statistics.mean(row[key] for row in rows if row["variant"] == name) for key in ("old", "new")}
        print(f"{name:85} mean    old {means['old']:5.1f}  new {means['new']:5.1f}")
    if output is not None:
        output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _variants(head: str) -> list[str]:
    golds = {"bertft_ner": ("outside", "missing", "found"), "bertft_textcat": ("alone",)}.get(head, ("cats",))
    rehearsals = {"bertft_ner": ("same", "annotated", "old"), "bertft_textcat": ("old", "found")}.get(
        head, ("same", "old")
    )
    return ["all", *(f"{gold}{rehearsal}" for gold in golds for rehearsal in ("", *(f"+{one}" for one in rehearsals)))]


def _read(folder: Path, work: Path) -> tuple[list[Doc], list[Doc]]:
    """The gold Docs of train and test."""
    convert([next(folder.glob(f"{split}.*")) for split in ("train", "test")], work)
    vocab = spacy.blank("en").vocab
    train, test = (list(DocBin().from_disk(work / f"{split}.spacy").get_docs(vocab)) for split in ("train", "test"))
    return train, test


def _labels(docs: Sequence[Doc]) -> set[str]:
    return {label for doc in docs for label in (*doc.cats, *(ent.label_ for ent in doc.ents))}


# --- annotations


def _with_labels(docs: Sequence[Doc], labels: Sequence[str]) -> list[Doc]:
    """Docs that have one of these categories, or no categories at all."""
    return [doc for doc in docs if not doc.cats or any(doc.cats[label] for label in labels)]


def _annotated(doc: Doc, labels: Sequence[str]) -> Doc:
    """A Doc annotated for these labels alone."""
    copy = bare(doc)
    copy.cats = {label: doc.cats[label] for label in labels if label in doc.cats}
    copy.set_ents([Span(copy, ent.start, ent.end, label=ent.label_) for ent in doc.ents if ent.label_ in labels])
    return copy


def _golds(gold: str, docs: Sequence[Doc], new: str, start: Language) -> list[Doc]:
    """Docs annotated for the new label alone. start: the old pipeline."""
    found = []
    for doc in docs:
        copy = _annotated(doc, [new])
        if gold == "missing":
            copy.set_ents(copy.ents, default="missing")
        if gold == "found":
            taken = {token.i for ent in copy.ents for token in ent}
            old = {token.i for ent in start(bare(doc)).ents for token in ent}
            copy.set_ents(copy.ents, missing=[copy[place : place + 1] for place in sorted(old - taken)])
        found.append(copy)
    return found


def _rehearsed(
    rehearsal: str, first: Sequence[Doc], second: Sequence[Doc], new: str, start: Language
) -> list[Doc] | None:
    """The Docs to rehearse; None: no rehearsal."""
    if rehearsal == "annotated":
        return [_annotated(doc, [new]) for doc in second]
    if rehearsal == "found":
        best = ((doc, max(doc.cats, key=lambda label: doc.cats[label])) for doc in start.pipe(map(bare, first)))
        return [_annotated_as(doc, label) for doc, label in best]
    chosen = {"same": second, "old": first}.get(rehearsal)
    return None if chosen is None else list(map(bare, chosen))


def _annotated_as(doc: Doc, label: str) -> Doc:
    copy = bare(doc)
    copy.cats = {label: 1.0}
    return copy


# --- training


def _blank(encoder: str, head: str) -> Language:
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": encoder, "device": "cpu"}
    nlp.add_pipe("bertft_encoder", name="encoder", config={"model": model})
    nlp.add_pipe(head, name="head")
    return nlp


def _learn(nlp: Language, golds: Sequence[Doc], rehearsed: Sequence[Doc] | None, run: Run) -> None:
    """Train on gold Docs; initialises a new pipeline. rehearsed: Docs for a rehearsal after each update."""
    fix_random_seed(run.seed)
    steps = run.epochs * -(-len(golds) // run.batch_size)
    schedule = {"@schedules": "spacy-bertft.warmup_decay.v1", "initial_rate": run.rate, "max_steps": steps}
    settings = {"@optimizers": "Adam.v1", "L2_is_weight_decay": True, "L2": 0.01, "grad_clip": 1.0}
    optimizer = registry.resolve({"optimizer": {**settings, "learn_rate": schedule}})["optimizer"]
    if not nlp.get_pipe("head").labels:
        nlp.initialize(lambda: [Example(bare(doc), doc) for doc in golds], sgd=optimizer)
    else:
        nlp.resume_training(sgd=optimizer)
    others = None if rehearsed is None else _batches(rehearsed, run.batch_size, run.seed + 1)
    for batch in islice(_batches(golds, run.batch_size, run.seed), steps):
        nlp.update([Example(bare(doc), doc) for doc in batch], drop=run.drop, sgd=optimizer)
        if others is not None:
            nlp.rehearse([Example(bare(doc), doc) for doc in next(others)], sgd=optimizer)
        optimizer.step_schedules()


def _batches(docs: Sequence[Doc], size: int, seed: int) -> Iterator[list[Doc]]:
    """Batches without end, in another order each time over."""
    order, chance = list(docs), random.Random(seed)
    for _ in cycle([None]):
        chance.shuffle(order)
        yield from minibatch(order, size)


# --- scores


def _f1(gold: Sequence[Doc], predicted: Sequence[Doc], labels: Sequence[str]) -> float:
    """F1 over all annotations with these labels, in percent."""
    counts = PRFScore()
    for one, two in zip(predicted, gold, strict=True):
        counts.score_set(_facts(one, labels), _facts(two, labels))
    return 100 * counts.fscore


def _facts(doc: Doc, labels: Sequence[str]) -> set[tuple[Any, ...]]:
    cats = {(label,) for label in labels if doc.cats.get(label, 0.0) >= 0.5}
    return cats | {(ent.start, ent.end, ent.label_) for ent in doc.ents if ent.label_ in labels}


if __name__ == "__main__":
    typer.run(main)
