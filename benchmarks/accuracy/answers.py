"""Extractive questions: `spacy train` with bertft_qa beside transformers' usual recipe, same encoder, recipe and data.

    pip install -c constraints.txt -e ".[benchmarks]"
    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/accuracy/answers.py qa/squad2_half_dev --encoder bert-base-cased

The data folder holds qa/<name>/{train,dev,test}.json in the form of SQuAD 2.0. Both are scored by the same functions on
their last weights: exact match and F1, first where the likelier of best answer and none is given, then with a threshold
fitted on dev. With --answerable, as in SQuAD 1.1: questions without an answer are left out, and an answer is always
given.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import hf_answers
import hf_trainer
import spacy
import typer
from compare import SPLITS, BatchSize, Encoder, Epochs, Rate, train_config
from hf_answers import Prediction, Question

from spacy_bertft import question_doc
from spacy_bertft.jobs.calibrate import calibrate
from spacy_bertft.tasks.qa import AnswerTask
from spacy_bertft.tasks.scorers import exact_match, token_f1


def main(
    data: Annotated[str, typer.Argument(help="Folder below SPACY_BERTFT_DATA: qa/…")],
    encoder: Encoder,
    rate: Rate = 2e-4,
    epochs: Epochs = 2,
    batch_size: BatchSize = 16,
    seed: Annotated[int, typer.Option(help="Seed of both.")] = 0,
    answerable: Annotated[bool, typer.Option("--answerable", help="Only questions that have an answer.")] = False,
    output: Annotated[Path | None, typer.Option(help="JSON file for all figures.")] = None,
) -> None:
    """Compare on one data set and print exact match and F1 of dev and test."""
    folder = Path(os.environ["SPACY_BERTFT_DATA"]) / data
    recipe = hf_trainer.Recipe(encoder, rate, epochs, batch_size)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        if answerable:
            folder = keep_answerable(folder, Path(work))
        questions = {split: read(folder / f"{split}.json") for split in SPLITS}
        job = Job(folder, questions, recipe, seed, Path(work), always=answerable)
        for name, run in (("spacy-bertft", ours), ("HF Trainer", hugging_face)):
            start = time.perf_counter()
            found = run(job)
            seconds = round(time.perf_counter() - start)
            for threshold, predicted in found.items():
                scores = {split: score(questions[split], predicted[split]) for split in SPLITS[1:]}
                rows.append({"system": name, "threshold": threshold, "seconds": seconds, **scores})
                shown = "  ".join(f"{split} EM {em:.2f} F1 {f1:.2f}" for split, (em, f1) in scores.items())
                print(f"{name:14} threshold {threshold:6}  {shown}  {seconds} s", flush=True)
    if output is not None:
        output.write_text(
            json.dumps({"data": data, **asdict(recipe), "seed": seed, "answerable": answerable, "runs": rows}, indent=1)
            + "\n"
        )


def keep_answerable(folder: Path, work: Path) -> Path:
    """A folder with the same files without the questions that have no answer."""
    for split in SPLITS:
        squad = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
        for article in squad["data"]:
            for paragraph in article["paragraphs"]:
                paragraph["qas"] = [qa for qa in paragraph["qas"] if qa["answers"]]
        (work / f"{split}.json").write_text(json.dumps(squad), encoding="utf-8")
    return work


def read(path: Path) -> list[Question]:
    """The questions of a SQuAD file."""
    return [
        Question(
            qa["id"],
            qa["question"],
            paragraph["context"],
            tuple((answer["answer_start"], answer["text"]) for answer in qa["answers"]),
        )
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]


@dataclass(frozen=True)
class Job:
    """What both sides are given."""

    folder: Path  # of the files
    questions: dict[str, list[Question]]  # split -> those of its file
    recipe: hf_trainer.Recipe
    seed: int
    work: Path
    always: bool  # give an answer to every question

    @property
    def others(self) -> dict[str, list[Question]]:
        """The questions of dev and test."""
        return {split: self.questions[split] for split in SPLITS[1:]}


Answers = dict[str, dict[str, list[str]]]  # threshold -> split -> an answer a question, "" for none


def ours(job: Job) -> Answers:
    """Train with configs/qa.cfg; answers with the plain threshold and with the one that `bertft calibrate` fits."""
    paths = {split: str(job.folder / f"{split}.json") for split in ("train", "dev")}
    pipeline = train_config("qa", paths, len(job.questions["train"]), job.recipe, job.seed, job.work)
    if job.always:
        return {"always": {split: predict(pipeline, of_split, threshold=0) for split, of_split in job.others.items()}}
    plain = {split: predict(pipeline, of_split) for split, of_split in job.others.items()}
    calibrate(pipeline, job.folder / "dev.json")
    return {"plain": plain, "fitted": {split: predict(pipeline, of_split) for split, of_split in job.others.items()}}


def predict(pipeline: Path, questions: list[Question], **settings: float) -> list[str]:
    """Answers of a saved pipeline, with other settings of its head than the saved ones."""
    nlp = spacy.load(pipeline, config={f"components.qa.{name}": value for name, value in settings.items()})
    contexts = {question.context: nlp.make_doc(question.context) for question in questions}
    docs = (question_doc(nlp, question.question.strip(), contexts[question.context]) for question in questions)
    return [next((span.text for span in doc.spans["answers"]), "") for doc in nlp.pipe(docs)]


def hugging_face(job: Job) -> Answers:
    """Train with the Trainer; answers where they score above none, and with a margin fitted on dev by our own fit."""
    found = hf_answers.run(job.questions["train"], job.others, job.recipe, job.seed, job.work / "hf")
    if job.always:
        thresholds = {"always": 0.0}
    else:
        evidence = [
            (
                -found["dev"][one.id].null_margin,
                token_f1(texts(one), found["dev"][one.id].text),
                exact_match(texts(one), ""),
            )
            for one in job.questions["dev"]
        ]
        thresholds = {"plain": 0.5, "fitted": AnswerTask().fit(evidence)["threshold"]}
    return {
        name: {
            split: [answer(found[split][one.id], threshold) for one in of_split]
            for split, of_split in job.others.items()
        }
        for name, threshold in thresholds.items()
    }


def answer(prediction: Prediction, threshold: float) -> str:
    """The answer, if it is likely enough beside none; the threshold is that of bertft_qa."""
    share = 1 / (1 + math.exp(min(500.0, prediction.null_margin)))
    return prediction.text if share >= threshold else ""


def texts(question: Question) -> list[str]:
    """The gold answers."""
    return [text for _, text in question.answers]


def score(questions: list[Question], predicted: list[str]) -> tuple[float, float]:
    """Exact match and F1, in points."""
    pairs = list(zip(questions, predicted, strict=True))
    em = statistics.mean(exact_match(texts(one), found) for one, found in pairs)
    return 100 * em, 100 * statistics.mean(token_f1(texts(one), found) for one, found in pairs)


if __name__ == "__main__":
    typer.run(main)
