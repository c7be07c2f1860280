"""What is compared, in which environments, and on which encoders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from texts import Amounts

# Environments, each with its own interpreter.
OURS, PEER, COMPONENT = "ours", "spacy-transformers", "spacy-huggingface-pipelines"
BEFORE = "before"  # another checkout of this package


@dataclass(frozen=True)
class Environment:
    """A name, and the arguments of the `pip install` calls that fill it, in turn."""

    name: str
    installs: tuple[tuple[str, ...], ...]


ENVIRONMENTS = (
    Environment(OURS, (("torch==2.13.0",), ("-c", "constraints.txt", "-e", ".[export]"))),
    Environment(PEER, (("torch==2.13.0",), ("spacy-transformers==1.4.0", "spacy==3.8.18", "transformers==4.53.2"))),
    Environment(
        COMPONENT,
        (("torch==2.13.0",), ("spacy-huggingface-pipelines==0.0.4", "spacy==3.8.18", "transformers==4.57.6")),
    ),
)


def before(checkout: Path) -> Environment:
    """The environment of another checkout of this package."""
    return Environment(BEFORE, (("torch==2.13.0",), ("-c", "constraints.txt", "-e", f"{checkout}[onnx]")))


@dataclass(frozen=True)
class Subject:
    """One bar of the chart: a pipeline, and how it is run."""

    name: str
    environment: str
    pipeline: str  # a name of pipelines.STEPS
    kind: Literal["spacy", "hf"] = "spacy"
    batch_size: int | None = None  # None: the library's default
    best_batch: bool = False  # with the batch size of BATCHES that is fastest on each set of texts
    precision: Literal["auto", "float32"] = "auto"  # of this package's encoder
    heads: int = 1  # 1: entities; 2: entities and categories

    @property
    def ours(self) -> bool:
        """Whether it is this package."""
        return self.name.startswith("spacy-bertft")


BATCHES = (8, 32, 128, 512, 1000)  # texts
SUBJECTS = (
    Subject("spacy-bertft", OURS, "ours"),
    Subject("spacy-bertft, float32", OURS, "ours", precision="float32"),
    Subject("spacy-bertft, ONNX", OURS, "ours-onnx"),
    Subject("spacy-bertft, ONNX int8", OURS, "ours-onnx-int8"),
    Subject("spacy-bertft, 3 layers", OURS, "student"),
    Subject("spacy-bertft, 3 layers, ONNX", OURS, "student-onnx"),
    Subject("spacy-bertft, 3 layers, ONNX int8", OURS, "student-onnx-int8"),
    Subject("spacy-transformers", PEER, "peer"),
    Subject("spacy-transformers, best batch", PEER, "peer", best_batch=True),
    Subject("Hugging Face pipeline, batch 1", OURS, "hf", kind="hf", batch_size=1),
    Subject("Hugging Face pipeline, batch 32", OURS, "hf", kind="hf", batch_size=32),
    Subject("Hugging Face pipeline, best batch", OURS, "hf", kind="hf", batch_size=1, best_batch=True),
    Subject("spacy-huggingface-pipelines", COMPONENT, "hf-component"),
    Subject("spacy-huggingface-pipelines, best batch", COMPONENT, "hf-component", best_batch=True),
    Subject("spacy-bertft, 2 heads", OURS, "ours-2", heads=2),
    Subject("spacy-transformers, 2 heads", PEER, "peer-2", heads=2),
)
BESIDE_BEFORE = (
    *(subject for subject in SUBJECTS if subject.pipeline in ("ours", "ours-2")),
    Subject("before", BEFORE, "before"),
    Subject("before, 2 heads", BEFORE, "before-2", heads=2),
)
# The environment whose speed counts as 1: the first of these that was measured.
REFERENCES = (PEER, BEFORE)


@dataclass(frozen=True)
class Size:
    """An encoder: the one that was given, or a random one of BERT-base's shape."""

    name: str
    random: bool
    amounts: Amounts


SIZES = {
    "minilm": Size("minilm", False, Amounts(400, 200, 25_000, 15_000, 200)),
    # A quarter of the texts, since it takes about eight times as long a word.
    "base": Size("base", True, Amounts(100, 50, 6_000, 4_000, 100)),
}
QUICK = Amounts(16, 8, 600, 700, 10)
