"""`distill`: trained pipelines in; a config, a smaller pipeline and a comparison out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.training.loop import DIR_MODEL_BEST

from spacy_bertft.components.distill_settings import DistillSettings
from spacy_bertft.encoder.checkpoint import Checkpoint
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.errors import ConfigError
from spacy_bertft.files import PIPELINE
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.distill.comparison import DistillReport, compare
from spacy_bertft.jobs.distill.config import Data, make_config
from spacy_bertft.jobs.distill.parts import Parts, parts_of
from spacy_bertft.jobs.distill.teachers import load_teacher
from spacy_bertft.jobs.distill.texts import unlabelled_examples
from spacy_bertft.jobs.evaluate import check_data, stream_examples
from spacy_bertft.jobs.recipes.choices import Choices, EncoderFacts, choose
from spacy_bertft.jobs.recipes.init import facts_of, load_encoder
from spacy_bertft.jobs.recipes.summary import summarise
from spacy_bertft.jobs.recipes.tasks import RecipeTask
from spacy_bertft.jobs.shrink.checkpoints import check_layers, n_layers, with_layers
from spacy_bertft.jobs.shrink.choice import Plan, choose_layers
from spacy_bertft.jobs.training.prepare import read_config
from spacy_bertft.jobs.training.train import train as train_config
from spacy_bertft.jobs.writing import writing
from spacy_bertft.signatures import with_settings

ENCODER = "encoder"  # in the student's folder: what its training starts from
_Note = Callable[[str], None]


@dataclass(frozen=True)
class Student:
    """Which encoder a student has: some layers of the first teacher's, or one by name."""

    layers: int | None = None
    name: str | None = None
    revision: str = "main"

    def __post_init__(self) -> None:
        if (self.layers is None) == (self.name is None):
            found = "both" if self.name is not None else "neither"
            raise ConfigError(
                f"The student's encoder: found {found} of a number of layers and a name. Expected one of them. Give "
                "--layers 3 to keep so many layers of the teacher's encoder, or --student NAME."
            )


@with_settings(Options)
def distill(
    teachers: Sequence[Path],
    output: Path,
    student: Student,
    *,
    dev: Path,
    train: Path | None = None,
    unlabelled: Sequence[Path] = (),
    method: DistillSettings | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    use_gpu: int = -1,
    note: _Note = lambda line: None,
    **settings: Any,
) -> DistillReport:
    """Train a student on what teachers say of texts, and compare it with them on the development texts.

    teachers    folders of pipelines; a head learns the mean of what those say that have it
    output      folder for config.cfg, the encoder that the training starts from, model-best and model-last
    train, dev  annotated texts: .spacy, or a file that `bertft convert` reads; train may be None
    unlabelled  files of further texts; see jobs/distill/texts.py
    method      how it is learned; None: as the defaults say
    overrides   settings of the config, by section.name
    resume      continue a run that was stopped; the config is then the one in `output`
    overwrite   replace what an earlier call left in `output`
    note        gets lines that a user should see
    settings    how the files are read, e.g. text_key="body": the fields of `Options`
    """
    data = Data(train, dev, tuple(unlabelled), Options(**settings))
    config = output / PIPELINE
    if not (resume and config.is_file()):
        _check(teachers, output, data, overwrite=overwrite)
        _prepare(teachers, output, student, data, method or DistillSettings(), overrides or {}, note)
    read, warnings = read_config(config, {})
    for warning in warnings:
        note(warning)
    train_config(read, output, use_gpu=use_gpu, resume=resume, note=note)
    note("comparing teacher and student")
    return compare(teachers, output / DIR_MODEL_BEST, dev, data.options)


def _check(teachers: Sequence[Path], output: Path, data: Data, *, overwrite: bool) -> None:
    if not teachers:
        raise ConfigError("teachers: found none; expected folders of trained pipelines; fix: name one")
    if data.train is None and not data.unlabelled:
        raise ConfigError(
            "train: found neither annotated nor unlabelled texts; expected texts to learn from; fix: give --train, "
            "--unlabelled or both"
        )
    if (output / PIPELINE).exists() and not overwrite:
        raise ConfigError(
            f"The output {str(output)!r} holds a {PIPELINE} already. Expected a new folder. Give another, continue "
            "that run with --resume, or replace it with --overwrite."
        )
    for path in (data.train, data.dev):
        if path is not None:
            check_data(path, data.options)


def _prepare(
    teachers: Sequence[Path],
    output: Path,
    student: Student,
    data: Data,
    method: DistillSettings,
    overrides: Mapping[str, Any],
    note: _Note,
) -> None:
    """Write the config of the student, and its encoder if that is a part of the teacher's."""
    loaded = [(str(path), load_teacher(str(path))[0]) for path in teachers]
    parts, nlp = parts_of(loaded, note), loaded[0][1]
    encoder, facts = _student(student, parts, nlp, output)
    chosen = _choose(nlp, data, encoder, facts)
    callback = {"teachers": [str(path) for path in teachers], **asdict(method)}
    text = make_config(parts, data, facts, chosen, callback, folder=output, overrides=overrides)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        if student.name is None:
            encoder.save(output / ENCODER)
        (output / PIPELINE).write_text(text, encoding="utf-8")
    note(f"wrote {output / PIPELINE}")


def _student(student: Student, parts: Parts, nlp: Language, output: Path) -> tuple[Encoder, EncoderFacts]:
    """The student's encoder."""
    if student.name is not None:
        encoder = load_encoder(student.name, student.revision)
        return encoder, facts_of(student.name, student.revision, encoder)
    teacher: Encoder = nlp.get_pipe(parts.encoder[0]).encoder  # type: ignore[attr-defined]
    if not teacher.trainable:
        raise ConfigError(
            f"The teacher's encoder {parts.encoder[0]!r} was exported for ONNX Runtime, and its layers can't be taken "
            "out of the graph. Expected the pipeline that it was exported from. Give that one, or --student NAME."
        )
    encoder = Encoder(_cut(teacher.at_rest(), student.layers or 0), teacher.settings)
    return encoder, facts_of(str(output / ENCODER), "main", encoder)


def _cut(checkpoint: Checkpoint, layers: int) -> Checkpoint:
    check_layers(checkpoint)
    return with_layers(checkpoint, choose_layers(n_layers(checkpoint) or 0, Plan(layers=layers)))


def _choose(nlp: Language, data: Data, encoder: Encoder, facts: EncoderFacts) -> Choices:
    """The settings of the run that suit the texts and the student."""
    annotated = iter(()) if data.train is None else stream_examples(nlp, data.train, data.options)
    texts = chain(annotated, unlabelled_examples(nlp, data.unlabelled, data.options))
    train, dev = (
        summarise(examples, encoder.splitter) for examples in (texts, stream_examples(nlp, data.dev, data.options))
    )
    return choose(RecipeTask((), "", {}), train, dev, facts, "distillation")
