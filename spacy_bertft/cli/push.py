"""`bertft push`: a trained pipeline to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacy_bertft.cli.console import Code, Pipeline, clean_errors, import_code, show, table

if TYPE_CHECKING:
    from spacy_bertft.hub import PushReport

_Repo = Annotated[str, typer.Argument(help="Repository on the hub, user/name; created if there is none.")]
_License = Annotated[
    str | None,
    typer.Option("--license", help="The hub's identifier of the licence, such as mit; default: that in meta.json."),
]
_Public = Annotated[bool, typer.Option("--public", help="Let everyone read it; a new repository is private otherwise.")]
_BaseModel = Annotated[
    str | None,
    typer.Option("--base-model", help="Hub name of the pretrained encoder, for the card; default: that in the config."),
]
_Card = Annotated[
    Path | None, typer.Option("--card", help="Markdown file to use as model card; default: one is written.")
]
_Message = Annotated[str | None, typer.Option("--message", "-m", help="Message of the commit.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, without a connection.")]


def push_command(
    pipeline: Pipeline,
    repo: _Repo,
    license: _License = None,
    public: _Public = False,
    base_model: _BaseModel = None,
    card: _Card = None,
    message: _Message = None,
    dry_run: _DryRun = False,
    code: Code = None,
) -> None:
    """Push a trained pipeline to the Hugging Face hub, with a model card. Log in first with `hf auth login`."""
    from spacy_bertft.hub import push

    with clean_errors():
        import_code(code)
        report = push(
            pipeline,
            repo,
            license=license,
            public=public,
            base_model=base_model,
            card=card,
            message=message,
            dry_run=dry_run,
        )
    if dry_run:
        show(table(("kB", "file"), [(-(-size // 1000), name) for name, size in report.sizes.items()]) + "\n")
        show(report.card)
    _show_end(report)


def _show_end(report: PushReport) -> None:
    for setting in report.local_paths:
        show(f"⚠ config.cfg names a path of this machine, which readers will see: {setting}", error=True)
    if report.card_kept:
        show("ℹ the repository's README.md was written or changed by people, so it stays", error=True)
    if report.deleted:
        show(f"ℹ deleted in the repository: {', '.join(report.deleted)}", error=True)
    what = f"{len(report.sizes)} files, {sum(report.sizes.values()) / 1e6:.1f} MB"
    seen = "public" if report.public else "private"
    if report.url is None or report.commit is None:
        show(f"✔ would push {what} to {report.repo} ({seen}); nothing was sent")
        return
    show(f'✔ {report.url} ({seen}), commit {report.commit[:7]}: {what}\n\n    spacy_bertft.from_hub("{report.repo}")\n')
