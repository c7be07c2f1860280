"""`bertft shrink`: a pipeline or an encoder with fewer subwords or layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacy_bertft.cli.console import Code, clean_errors, import_code, show, table
from spacy_bertft.components.metric_kinds import titled
from spacy_bertft.errors import ConfigError

if TYPE_CHECKING:
    from spacy_bertft.export import Change
    from spacy_bertft.shrink import ShrinkReport, Shrunk

_Source = Annotated[
    str, typer.Argument(help="Trained pipeline, or an encoder: a folder, package/folder or a name on the hub.")
]
_Corpus = Annotated[
    list[Path] | None,
    typer.Argument(help="Texts whose subwords stay: .spacy, raw text, or what convert reads. None: all stay."),
]
_Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write the smaller one to.")]
_Layers = Annotated[
    str | None,
    typer.Option("--layers", help="Layers to keep: their numbers from 0 (0,2,5), or how many, evenly spaced (3)."),
]
_MinCount = Annotated[int, typer.Option("--min-count", help="Occurrences in the corpus that a subword needs.")]
_MaxSize = Annotated[int | None, typer.Option("--max-size", help="Largest number of subwords; the commonest stay.")]
_MinSize = Annotated[
    int, typer.Option("--min-size", help="Fill up to this number with subwords that are common elsewhere.")
]
_Characters = Annotated[
    bool, typer.Option("--characters/--no-characters", help="Keep single characters, to spell unseen words with.")
]
_Dev = Annotated[
    Path | None,
    typer.Option("--dev", help="Held-out texts, to count those that change; annotated ones compare the scores too."),
]
_TextKey = Annotated[str, typer.Option("--text-key", help="JSON key or column that holds the text.")]
_Revision = Annotated[str, typer.Option("--revision", help="Branch, tag or commit of an encoder on the hub.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the pipeline or the encoder in the output.")]


def shrink_command(
    source: _Source,
    output: _Output,
    corpus: _Corpus = None,
    layers: _Layers = None,
    min_count: _MinCount = 1,
    max_size: _MaxSize = None,
    min_size: _MinSize = 0,
    characters: _Characters = True,
    dev: _Dev = None,
    text_key: _TextKey = "text",
    revision: _Revision = "main",
    overwrite: _Overwrite = False,
    code: Code = None,
) -> None:
    """Cut the vocabulary to what a corpus uses, drop layers, and report what that changes."""
    from spacy_bertft.shrink import shrink

    with clean_errors():
        import_code(code)
        report = shrink(
            source,
            output,
            corpus=corpus or [],
            layers=_parse_layers(layers),
            min_count=min_count,
            max_size=max_size,
            min_size=min_size,
            characters=characters,
            dev=dev,
            text_key=text_key,
            revision=revision,
            overwrite=overwrite,
            note=lambda line: show(f"ℹ {line}", error=True),
        )
    for shrunk in report.encoders:
        _show_encoder(shrunk)
    _show_scores(report)
    _show_end(report)


def _parse_layers(given: str | None) -> int | tuple[int, ...] | None:
    if given is None:
        return None
    try:
        numbers = tuple(int(part) for part in given.removesuffix(",").split(","))
    except ValueError:
        raise ConfigError(
            f"--layers is {given!r}. Expected numbers of layers from 0, separated by commas, such as 0,2,5, or how "
            "many to keep, such as 3. Correct it."
        ) from None
    return numbers if "," in given else numbers[0]


def _show_encoder(shrunk: Shrunk) -> None:
    changes = [shrunk.subwords, *([shrunk.layers] if shrunk.layers else []), shrunk.parameters]
    rows = [(one.name, f"{one.before:12,}", f"{one.after:12,}", _ratio(one)) for one in changes]
    size = shrunk.size
    rows.append(("MB on disk", f"{size.before / 1e6:12,.1f}", f"{size.after / 1e6:12,.1f}", _ratio(size)))
    show(table((shrunk.name or "encoder", "      before", "       after", "after / before"), rows))
    if shrunk.kept_layers is not None:
        show(f"layers kept, from 0: {', '.join(map(str, shrunk.kept_layers))}")
    if shrunk.coverage is not None:
        show(f"{100 * shrunk.coverage:.2f} % of the corpus's subwords are kept")
    if shrunk.dev is not None:
        dev = shrunk.dev
        show(
            f"{100 * dev.share_kept:.2f} % of the held-out subwords are kept; {dev.changed_texts:,} of {dev.texts:,} "
            f"held-out texts ({100 * dev.share_changed:.1f} %) split in another way"
        )
    show("")


def _ratio(change: Change) -> str:
    return f"{change.after / change.before:.2f}x"


def _show_scores(report: ShrinkReport) -> None:
    if report.scores:
        rows = [
            (titled(one.name), f"{one.before:6.2f}", f"{one.after:6.2f}", f"{one.difference:+6.2f}")
            for one in report.scores
        ]
        show(table(("score (points)", "before", "after", "change"), rows) + "\n")


def _show_end(report: ShrinkReport) -> None:
    if report.train_again:
        show(
            "⚠ layers were dropped: train the result again, by fine-tuning or distillation, before using it", error=True
        )
    if report.dev is None:
        show("⚠ nothing was compared: give held-out texts with --dev to know how many of them change", error=True)
    size = report.size
    show(f"✔ {report.out}: {size.after / 1e6:,.1f} MB, was {size.before / 1e6:,.1f} MB")
