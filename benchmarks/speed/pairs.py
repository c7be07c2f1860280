"""Whether Docs of two segments are as fast, a subword, as plain ones of the same words.

    pip install -c constraints.txt -e .
    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/speed/pairs.py --encoder bert-base-cased

Each pair or question runs as two segments (bertft_pair, bertft_qa) and, its words the same, as a plain Doc with a head
like it (bertft_textcat, bertft_ner). Subwords count special ones. The heads are not trained, which matters for one
thing: bertft_ner sets far more entities than a trained one. Runs alternate; medians of the rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Annotated

import spacy
import typer
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from spacy_bertft import pair_doc


def main(
    encoder: Annotated[str, typer.Option(help="Hub name, folder, or package/folder of an installed package.")],
    texts: Annotated[int, typer.Option(help="Pairs, and questions.")] = 500,
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 7,
) -> None:
    """Print subwords a second of both, and the ratio."""
    data = Path(os.environ["SPACY_BERTFT_DATA"])
    rows = [json.loads(line) for line in (data / "pair/snli_small/test.jsonl").open(encoding="utf-8")]
    pairs = [(row["text_a"], row["text_b"]) for row in rows][:texts]
    squad = json.loads((data / "qa/squad2_half_dev/test.json").read_text(encoding="utf-8"))["data"]
    questions = [
        (qa["question"], paragraph["context"])
        for article in squad
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    for name, of_pairs, of_plain, segments in (
        ("pairs", "bertft_pair", "bertft_textcat", pairs),
        ("questions", "bertft_qa", "bertft_ner", questions[: texts // 2]),
    ):
        measure(name, pipeline(encoder, of_pairs), pipeline(encoder, of_plain), segments, rounds)


def pipeline(encoder: str, head: str) -> Language:
    """An encoder with an untrained head."""
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": encoder}
    nlp.add_pipe("bertft_encoder", config={"model": model})
    nlp.add_pipe(head)
    doc = pair_doc(nlp, "One text", "and another")
    doc.cats = {"yes": 1.0, "no": 0.0}
    doc.ents = [doc.char_span(0, 3, label="A")]
    doc.spans["answers"] = [doc[-1:]]
    nlp.initialize(lambda: [Example(pair_doc(nlp, "One text", "and another"), doc)])
    return nlp


def measure(name: str, of_pairs: Language, of_plain: Language, segments: list[tuple[str, str]], rounds: int) -> None:
    """Print the speed of one set of texts."""
    pairs = [pair_doc(of_pairs, first, second) for first, second in segments]
    plain = [of_plain.make_doc(f"{first} {second}") for first, second in segments]
    speeds: dict[str, list[float]] = {"pairs": [], "plain": []}
    turns = [("pairs", of_pairs, pairs), ("plain", of_plain, plain)]
    n_subwords = {kind: len(nlp.get_pipe("bertft_encoder").predict(docs).hidden) for kind, nlp, docs in turns}
    for _ in range(rounds):
        for kind, nlp, docs in turns:
            speeds[kind].append(n_subwords[kind] / seconds(nlp, docs))
    ratio = statistics.median(one / other for one, other in zip(speeds["pairs"], speeds["plain"], strict=True))
    medians = {kind: statistics.median(values) for kind, values in speeds.items()}
    print(
        f"{name:10} {len(pairs)} Docs  two segments {medians['pairs']:8,.0f} subwords/s  "
        f"plain {medians['plain']:8,.0f}  ratio {ratio:.3f}"
    )


def seconds(nlp: Language, docs: list[Doc]) -> float:
    """How long nlp.pipe takes for copies of the Docs."""
    copies = [doc.copy() for doc in docs]
    start = time.perf_counter()
    for _ in nlp.pipe(copies):
        pass
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
