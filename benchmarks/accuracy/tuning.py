"""What a search gains: `bertft tune` from a config, then the best config against that one, with several seeds, on test.

    pip install -c constraints.txt -e ".[benchmarks,tune]"
    export SPACY_BERTFT_DATA=/folder/of/data
    python benchmarks/accuracy/tuning.py ner/wikigold --encoder bert-base-cased --trials 20

The same data and formats as compare.py. The search starts from the config of `bertft init` for these data, or from
--config. Further options are settings of the config, as in `spacy train`. The config and
the best one of the search are trained with seeds that the search has not used, and scored on dev and test with the
weights of their best evaluation on dev; test is used nowhere else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from compare import (
    SPLITS,
    Data,
    DevTexts,
    Encoder,
    MergeSentences,
    TestTexts,
    Texts,
    head_of,
    predict,
    prepare,
    score,
    spread,
)
from spacy.cli._util import parse_config_overrides
from spacy.cli.train import train as spacy_train

from spacy_bertft.jobs.recipes.init import init

app = typer.Typer(add_completion=False, rich_markup_mode=None)
START, BEST = "start", "best of the search"


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def main(
    context: typer.Context,
    data: Data,
    encoder: Encoder,
    config: Annotated[Path | None, typer.Option(help="Config to start from; else that of `bertft init`.")] = None,
    trials: Annotated[int, typer.Option(help="Trials of the search.")] = 20,
    space: Annotated[Path | None, typer.Option(help="Space to search; else the default one.")] = None,
    merge_sentences: MergeSentences = 1,
    texts: Texts = None,
    dev_texts: DevTexts = 300,
    test_texts: TestTexts = 1000,
    seeds: Annotated[int, typer.Option(help="Trainings of each config, with seeds 1, 2, …")] = 3,
    search: Annotated[Path | None, typer.Option(help="Folder for the search, to keep it or go on with it.")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for all figures.")] = None,
) -> None:
    """Search on one data set, and print dev and test scores of the start and of what was found."""
    overrides = parse_config_overrides(context.args)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        corpus = work if search is None else search / "corpus"  # the same paths when it goes on
        corpus.mkdir(parents=True, exist_ok=True)
        source = Path(os.environ["SPACY_BERTFT_DATA"]) / data
        gold = prepare(source, corpus, merge_sentences, texts, dev=dev_texts, test=test_texts)
        overrides |= {f"paths.{split}": str(corpus / f"{split}.spacy") for split in ("train", "dev")}
        if head_of(gold) != "pair":  # on the very tokens that are scored
            overrides |= {f"corpora.{split}.gold_preproc": True for split in ("train", "dev")}
        overrides["components.encoder.model.name"] = encoder
        if config is None:
            config = corpus / "config.cfg"
            paths = {split: corpus / f"{split}.spacy" for split in ("train", "dev")}
            init(head_of(gold).removeprefix("textcat_"), config, encoder=encoder, force=True, **paths)
        found = (search or work) / "search"
        seconds = tune(config, found, overrides, trials, space)
        rows = []
        for seed in range(1, seeds + 1):
            for name, path, settings in ((START, config, overrides), (BEST, found / "best.cfg", {})):
                spacy_train(path, work / "run", overrides={**settings, "system.seed": seed, "training.seed": seed})
                predicted = predict(work / "run/model-best", gold)
                scores = {split: score(gold[split], predicted[split]) for split in SPLITS[1:]}
                rows.append({"config": name, "seed": seed, **scores})
                print(f"{name:20} seed {seed}  dev {scores['dev']:.4f}  test {scores['test']:.4f}", flush=True)
        print(*summary(rows), f"{trials} trials took {seconds:,.0f} s", sep="\n")
        if output is not None:
            best = (found / "best.cfg").read_text(encoding="utf-8")
            setup = {"data": data, "config": str(config), "trials": trials, "texts": texts, "seconds": round(seconds)}
            output.write_text(json.dumps({**setup, "runs": rows, "best": best}, indent=1) + "\n", encoding="utf-8")


def tune(config: Path, folder: Path, overrides: dict[str, Any], trials: int, space: Path | None) -> float:
    """Search from a config; returns the seconds it took."""
    command = [sys.executable, "-m", "spacy_bertft", "tune", str(config), "--output", str(folder), "--no-model"]
    command += ["--trials", str(trials), *(["--space", str(space)] if space else [])]
    for name, value in overrides.items():
        command += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    begun = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - begun


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Lines with the mean and the standard deviation over seeds: of each config, and of the gain seed by seed."""
    start, best = ([row for row in rows if row["config"] == name] for name in (START, BEST))
    gains = [{split: two[split] - one[split] for split in SPLITS[1:]} for one, two in zip(start, best, strict=True)]
    sides = ((START, start), (BEST, best), ("gain", gains))
    return [
        f"{name:20} mean    " + "  ".join(f"{split} {spread(found, split)}" for split in SPLITS[1:])
        for name, found in sides
    ]


if __name__ == "__main__":
    app()
