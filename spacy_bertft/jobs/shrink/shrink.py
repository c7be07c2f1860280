"""`shrink`: a pipeline or an encoder in, the same with fewer subwords or layers and a report out."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spacy_bertft.components.doc_texts import STREAM_CHARACTERS, n_characters, texts_of
from spacy_bertft.encoder.checkpoint import CONFIG, TOKENIZER, Checkpoint
from spacy_bertft.encoder.folders import find_folder
from spacy_bertft.encoder.loading import load_folder
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import ConfigError
from spacy_bertft.files import PIPELINE, staged_pipeline
from spacy_bertft.jobs.evaluate import Scores, load_pipeline, read_examples, score
from spacy_bertft.jobs.export.compare import changes, disk_size
from spacy_bertft.jobs.export.report import Change
from spacy_bertft.jobs.shrink import checkpoints
from spacy_bertft.jobs.shrink.choice import Plan, choose_layers, choose_subwords
from spacy_bertft.jobs.shrink.corpus import compare, count, read_texts
from spacy_bertft.jobs.shrink.pipeline import Part, copy_pipeline, encoders_of, left_alone
from spacy_bertft.jobs.shrink.report import ShrinkReport, Shrunk
from spacy_bertft.jobs.shrink.vocabulary import read_vocabulary
from spacy_bertft.jobs.shrink.whole import load_whole
from spacy_bertft.jobs.text_files import check_model
from spacy_bertft.jobs.writing import writing
from spacy_bertft.text.batches import chunk
from spacy_bertft.text.subwords import Texts
from spacy_bertft.types import Ints

_DOCS = 256  # of the dev set that are split at a time
_Read = Callable[[], Iterator[Texts]]
_Note = Callable[[str], None]


@dataclass(frozen=True)
class _Cut:
    """What became of an encoder."""

    checkpoint: Checkpoint
    kept: Ints | None = None  # old ids of the subwords that stay; None: all
    coverage: float | None = None  # share of the corpus's subwords
    layers: tuple[int, ...] | None = None


def shrink(
    source: str | Path,
    out: str | Path,
    *,
    corpus: Sequence[str | Path] = (),
    layers: int | Sequence[int] | None = None,
    min_count: int = 1,
    max_size: int | None = None,
    min_size: int = 0,
    characters: bool = True,
    dev: str | Path | None = None,
    text_key: str = "text",
    revision: str = "main",
    overwrite: bool = False,
    note: _Note = lambda line: None,
) -> ShrinkReport:
    """Write `source` to the folder `out` with the subwords that a corpus uses, with some of its layers, or both.

    A text whose subwords all stay is split and encoded exactly as before. After layers were dropped, a pipeline has to
    be trained again.

    source: the folder of a trained pipeline, whose encoders are shrunk; or an encoder: a folder, package/folder of an
        installed package, or a hub name.
    corpus: .spacy files, files that `bertft convert` reads, or raw text as `bertft adapt` reads it. Without any, the
        vocabulary stays as it is.
    layers: the numbers of the layers to keep, from 0, or how many to keep, evenly spaced.
    min_count: occurrences in the corpus that a subword needs to stay.
    max_size: largest number of subwords, special ones included; the commonest stay.
    min_size: number of subwords up to which those fill up that the corpus doesn't use, but that are common elsewhere.
    characters: also keep single characters, so that unseen words are spelled and not unknown.
    dev: held-out texts, to count those that split in another way; of a pipeline annotated ones, to compare scores on.
    text_key: JSON key or column that holds the text.
    revision: of an encoder on the hub.
    overwrite: replace a pipeline or an encoder that `out` holds.
    note: called with a line about each stage.
    """
    wanted = layers if layers is None or isinstance(layers, int) else tuple(layers)
    plan = Plan(min_count=min_count, max_size=max_size, min_size=min_size, characters=characters, layers=wanted)
    _check_task(corpus, plan)
    job = _Job(Path(out), plan, [Path(path) for path in corpus], None if dev is None else Path(dev), text_key, note)
    if (Path(source) / PIPELINE).is_file():
        with staged_pipeline(Path(source), job.out, overwrite=overwrite) as folder:
            report = job.pipeline(Path(source), folder)
            gc.collect()  # closes memory-mapped files: before that, Windows can't move their folder
        return report
    check_model(str(source))
    with staged_pipeline(
        find_folder(str(source)), job.out, overwrite=overwrite, what="an encoder", marker=CONFIG
    ) as folder:
        report = job.encoder(str(source), folder, revision)
        gc.collect()
    return report


def _check_task(corpus: Sequence[object], plan: Plan) -> None:
    if not corpus and plan.layers is None:
        raise ConfigError(
            "There is nothing to shrink: found no corpus and no layers. Expected a corpus, whose subwords stay, or "
            "layers to keep (--layers). Name one of them."
        )
    if not corpus and plan != Plan(layers=plan.layers):
        raise ConfigError(
            "min_count, max_size, min_size or characters is set, but there is no corpus. Expected texts to count "
            "subwords in. Name some, or leave these settings out."
        )


@dataclass(frozen=True)
class _Job:
    """The arguments of `shrink`."""

    out: Path
    plan: Plan
    corpus: Sequence[Path]
    dev: Path | None
    text_key: str
    note: _Note

    def pipeline(self, source: Path, folder: Path) -> ShrinkReport:
        """Write a pipeline to `folder`, which becomes `out` later."""
        before = load_pipeline(source)
        parts = encoders_of(before, source)
        if line := left_alone(before):
            self.note(line)
        examples = None if self.dev is None else read_examples(before, self.dev)
        docs = [example.predicted for example in examples or ()]
        made = [(part, self._cut(part)) for part in parts]
        self.note(f"writing {', '.join(part.name for part in parts)}")
        with writing(self.out):
            copy_pipeline(source, folder, [(part, cut.checkpoint) for part, cut in made])
        after = load_pipeline(folder)
        old, new = Scores({}, {}), Scores({}, {})
        if examples is not None:
            self.note(f"comparing scores on {self.dev}")
            old, new = score(before, examples), score(after, examples)

        def held_out() -> Iterator[Texts]:
            yield from map(texts_of, chunk(docs, size=_DOCS, budget=STREAM_CHARACTERS, cost=n_characters))

        shrunk = [_compared(part, cut, held_out if docs else None) for part, cut in made]
        return ShrinkReport(
            source=str(source),
            out=self.out,
            encoders=tuple(shrunk),
            dev=self.dev,
            scores=changes(old.overall, new.overall),
            label_scores=changes(old.of_labels, new.of_labels),
            size=Change("bytes", disk_size(source), disk_size(folder)),
        )

    def encoder(self, name: str, folder: Path, revision: str) -> ShrinkReport:
        """Write an encoder to `folder`, which becomes `out` later."""
        encoder, checkpoint = load_whole(name, revision=revision)
        part = Part("", encoder, checkpoint)
        cut = self._cut(part)
        with writing(self.out):
            cut.checkpoint.write(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about heads, of which the first load told
            load_folder(folder, EncoderSettings(device="cpu"))  # raises an error if the parts don't fit
        dev = self.dev
        shrunk = _compared(part, cut, None if dev is None else lambda: read_texts([dev], text_key=self.text_key))
        return ShrinkReport(name, self.out, (shrunk,), dev, (), (), shrunk.size)

    def _cut(self, part: Part) -> _Cut:
        """The encoder with the subwords and layers of the plan."""
        checkpoint, chosen = part.checkpoint, None
        n_layers = checkpoints.n_layers(checkpoint)
        if self.plan.layers is not None:
            checkpoints.check_layers(checkpoint)
            chosen = choose_layers(n_layers or 0, self.plan)
            checkpoint = checkpoints.with_layers(checkpoint, chosen)
        if not self.corpus:
            return _Cut(checkpoint, layers=chosen)
        self.note(f"counting subwords{' for ' + part.name if part.name else ''}")
        vocabulary = read_vocabulary(checkpoint.files[TOKENIZER])
        counts = count(part.encoder.splitter, read_texts(self.corpus, text_key=self.text_key))
        # In some families positions start after the padding's id: the ids up to it stay as they are.
        also = [*range(part.encoder.first_position), *checkpoints.named_ids(checkpoint.config).values()]
        subwords = choose_subwords(vocabulary, counts, self.plan, also=also)
        kept = np.array(sorted(vocabulary.ids[one] for one in subwords), dtype=np.int64)
        coverage = float(counts[kept].sum() / max(counts.sum(), 1))
        return _Cut(checkpoints.with_subwords(checkpoint, vocabulary, subwords), kept, coverage, chosen)


def _compared(part: Part, cut: _Cut, held_out: _Read | None) -> Shrunk:
    old, new = part.checkpoint, cut.checkpoint
    layers = [checkpoints.n_layers(one) for one in (old, new)]
    return Shrunk(
        name=part.name,
        subwords=Change("subwords", int(old.config["vocab_size"]), int(new.config["vocab_size"])),
        layers=None if layers[0] is None or layers[1] is None else Change("layers", layers[0], layers[1]),
        kept_layers=cut.layers,
        parameters=Change("parameters", checkpoints.n_parameters(old), checkpoints.n_parameters(new)),
        size=Change("bytes", checkpoints.n_bytes(old), checkpoints.n_bytes(new)),
        coverage=cut.coverage,
        dev=None if held_out is None or cut.kept is None else compare(part.encoder.splitter, cut.kept, held_out()),
    )
