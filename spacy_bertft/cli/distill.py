"""`bertft distill`: trained pipelines into one with a smaller encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spacy_bertft.cli.console import READING, STOPPED, Code, clean_errors, import_code, reading_option, show, table
from spacy_bertft.cli.evaluate import shown
from spacy_bertft.cli.train import overrides_of
from spacy_bertft.components.distill_settings import DistillSettings
from spacy_bertft.components.metric_kinds import titled
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.signatures import with_settings

if TYPE_CHECKING:
    from spacy_bertft.jobs.distill.comparison import DistillReport

_Teachers = Annotated[list[Path], typer.Argument(help="Folders of trained pipelines; of several, the mean is learned.")]
_Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for config.cfg and the student's pipelines.")]
_Train = Annotated[Path | None, typer.Option(help="Annotated texts: .spacy, or a file that `bertft convert` reads.")]
_Dev = Annotated[Path, typer.Option(help="Development texts, which choose the best model and are compared on.")]
_Unlabelled = Annotated[
    list[Path] | None, typer.Option(help="Further texts, learned from the teacher alone: .txt, or as --train.")
]
_Layers = Annotated[int | None, typer.Option(min=1, help="Keep so many layers of the teacher's encoder.")]
_Student = Annotated[str | None, typer.Option(help="Or another encoder: hub name, folder, or package/folder.")]
_Revision = Annotated[str, typer.Option(help="Branch, tag or commit, for a hub name.")]
_Weight = Annotated[float, typer.Option(help="Share of the loss on the teacher's outputs; the rest: annotations.")]
_Temperature = Annotated[float, typer.Option(help="Divisor of the logits of teacher and student.")]
_Hidden = Annotated[float, typer.Option(help="Factor of the loss on hidden rows; needs the teacher's tokenizer.")]
_Resume = Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the student in the output folder.")]
_Gpu = Annotated[int, typer.Option("--gpu-id", "-g", help="GPU, counted from 0; -1: none for spaCy's own components.")]


@with_settings(Options, reading_option(rich_help_panel=READING))
def distill_command(
    context: typer.Context,
    teachers: _Teachers,
    output_path: _Output,
    dev: _Dev,
    train: _Train = None,
    unlabelled: _Unlabelled = None,
    layers: _Layers = None,
    student: _Student = None,
    revision: _Revision = "main",
    weight: _Weight = DistillSettings.weight,
    temperature: _Temperature = DistillSettings.temperature,
    hidden: _Hidden = DistillSettings.hidden,
    resume: _Resume = False,
    overwrite: _Overwrite = False,
    use_gpu: _Gpu = -1,
    code: Code = None,
    **settings: Any,
) -> None:
    """Train a pipeline with a smaller encoder, the student, on what trained pipelines, its teachers, say of texts.

    Settings of the student's config can be given as further options, after --: -- --training.max_epochs 3
    """
    from spacy_bertft.jobs.distill.distill import Student, distill
    from spacy_bertft.jobs.training.prepare import choose_gpu
    from spacy_bertft.jobs.training.train import Stopped

    found, overrides = _sorted_words([str(path) for path in teachers], list(context.args))
    with clean_errors():
        import_code(code)
        gpu, _ = choose_gpu(use_gpu)
        try:
            report = distill(
                found,
                output_path,
                Student(layers, student, revision),
                dev=dev,
                train=train,
                unlabelled=unlabelled or (),
                method=DistillSettings(weight, temperature, hidden),
                overrides=overrides_of(overrides),
                resume=resume,
                overwrite=overwrite,
                use_gpu=gpu,
                note=lambda line: show(f"ℹ {line}", error=True),
                **settings,
            )
        except Stopped:
            raise typer.Exit(STOPPED) from None
    _show(report)


def _sorted_words(teachers: list[str], others: list[str]) -> tuple[list[Path], list[str]]:
    """The teachers, and the settings of the config, which follow the first word that is an option."""
    place = next((place for place, word in enumerate(teachers) if word.startswith("--")), len(teachers))
    return [Path(word) for word in teachers[:place]], [*teachers[place:], *others]


def _show(report: DistillReport) -> None:
    names = ["teacher", *(f"teacher {number}" for number in range(2, len(report.teachers) + 1))]
    for name, one in zip(names, report.teachers, strict=False):
        show(f"{name:10} {one.folder}")
    show(f"{'student':10} {report.student.folder}\n")
    everyone = [*report.teachers, report.student]
    rows = []
    for name in shown(report.student.scores):
        kept = report.kept(name)
        values = [f"{one.scores[name]:8.2f}" if name in one.scores else "" for one in everyone]
        rows.append((titled(name), *values, "" if kept is None else f"{kept:7.1%}"))
    show(table((f"scores on {report.dev}", *names, "student", "kept"), rows) + "\n")
    rows = [
        ("parameters, millions", *(_millions(one.parameters) for one in everyone)),
        ("MB on disk", *(f"{one.n_bytes / 1e6:8.1f}" for one in everyone)),
        ("words/s", *(f"{one.speed:8,.0f}" for one in everyone)),
    ]
    show(table(("pipeline", *names, "student"), rows))
    show(f"✔ The student: {report.student.folder}")


def _millions(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:8.1f}"
