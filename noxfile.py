"""All checks: `nox` runs every task, `nox -s lint types` some; CONTRIBUTING.md says what each is for.

lint, types, tests and project share one environment, made as the README says, for it takes a gigabyte and a minute.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).parent
# The lowest transformers that pyproject.toml allows, and that of spacy-transformers.
LOWEST = "transformers==4.49.0"
PEER = ("spacy-transformers==1.4.0", "transformers==4.52.4")
# Tools that read spaCy pipelines, and what a service needs.
TOOLS = (
    *("presidio-analyzer==2.2.366", "haystack-ai==3.4.1", "spacy-haystack==1.0.0", "dkpro-cassis==0.12.0"),
    *("fastapi==0.165.0", "uvicorn==0.54.0", "httpx"),
)
# What goes with a version of transformers.
OF_TRANSFORMERS = ("transformers", "tokenizers", "huggingface-hub", "datasets", "dill", "multiprocess", "fsspec")
# What the copy of the tree for `project` leaves out: what git ignores, above all results of workflows that ran here.
NOT_COPIED = (
    *(".git", ".nox", ".venv*", ".*_cache", ".hypothesis", "build", "dist"),
    *("corpus", "training", "metrics", "packages", "project.lock"),
)

nox.options.stop_on_first_error = True
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"

# Threads that wait should not keep the cores of a shared machine busy.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Public data for the tests that want some, where it lies beside the checkout.
if not os.environ.get("SPACY_BERTFT_DATA") and (ROOT / "../shared/data").is_dir():
    os.environ["SPACY_BERTFT_DATA"] = str((ROOT / "../shared/data").resolve())


@nox.session(default=False)
def main(session: nox.Session) -> None:
    """Make the environment of lint, types, tests and project."""
    session.install("-c", "constraints.txt", "-e", ".[test,lint]")


def python_of_main(session: nox.Session) -> str:
    """The interpreter of that environment."""
    folder = session.cache_dir.parent / "main"
    return str(next(path for path in (folder / "bin/python", folder / "Scripts/python.exe") if path.exists()))


@nox.session(venv_backend="none", requires=["main"])
def lint(session: nox.Session) -> None:
    """Ruff: style and format."""
    session.run(python_of_main(session), "-m", "ruff", "check", ".")
    session.run(python_of_main(session), "-m", "ruff", "format", "--check", ".")


@nox.session(venv_backend="none", requires=["main"])
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    session.run(python_of_main(session), "-m", "mypy")


@nox.session(venv_backend="none", requires=["main"])
def tests(session: nox.Session) -> None:
    """All tests, or with `nox -s tests -- …` those that the arguments of pytest name."""
    session.run(python_of_main(session), "-m", "pytest", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """The tests that touch transformers, with the lowest version of it."""
    session.install("-c", constraints_without(session, *OF_TRANSFORMERS), LOWEST, "-e", ".[test]")
    session.run("python", "-m", "pytest", "-m", "touches_transformers", *session.posargs)


@nox.session(requires=["main"])
def core(session: nox.Session) -> None:
    """An exported pipeline, from its folder and as an installed wheel, where only what it requires is installed."""
    made = Path(session.create_tmp()) / "made"
    shutil.rmtree(made, ignore_errors=True)
    session.run(python_of_main(session), "tests/core/make_exported.py", str(made), external=True)
    session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(made / "wheels"), ".")
    (wheel,) = made.glob("packages/*/dist/*.whl")
    session.install("-c", "constraints.txt", "--find-links", str(made / "wheels"), str(wheel))
    check = Path("tests/core/check_exported.py").resolve()
    with session.chdir(made):  # where nothing of the checkout is imported
        session.run("python", str(check), "exported", "expected.json")
        session.run("python", str(check), wheel.name.partition("-")[0], "expected.json")


@nox.session(requires=["main"])
def peer(session: nox.Session) -> None:
    """The tests with spacy-transformers, whose pipelines then come over to the main environment."""
    session.install("-c", constraints_without(session, *OF_TRANSFORMERS), "-e", ".[test]", *PEER)
    session.run("python", "-m", "pytest", "-m", "peer", *session.posargs)
    old = Path(session.create_tmp()) / "old"
    shutil.rmtree(old, ignore_errors=True)
    session.run("python", "tests/peer/make_old.py", str(old))
    test = (python_of_main(session), "-m", "pytest", "tests/jobs/test_migrate.py")
    session.run(*test, env={"SPACY_BERTFT_OLD": str(old)}, external=True)


@nox.session
def tools(session: nox.Session) -> None:
    """The tests with tools that read spaCy pipelines: Presidio, Haystack, INCEpTION's documents, FastAPI."""
    # Presidio wants an older preshed, Haystack a newer certifi.
    session.install("-c", constraints_without(session, "preshed", "certifi"), "-e", ".[test]", *TOOLS)
    session.run("python", "-m", "pytest", "tests/tools", *session.posargs)


@nox.session(venv_backend="none", requires=["main"])
def project(session: nox.Session) -> None:
    """The workflows of project.yml, in a copy of the tree, and of the folders in projects/, with few steps."""
    tree = Path(session.create_tmp()) / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    at_the_top = shutil.ignore_patterns(*NOT_COPIED)
    shutil.copytree(ROOT, tree, ignore=lambda folder, names: at_the_top(folder, names) if folder == str(ROOT) else [])
    python = python_of_main(session)

    def run(workflow: str, **settings: object) -> None:
        variables = [word for name, value in settings.items() for word in (f"--vars.{name}", str(value))]
        session.run(python, "-m", "spacy", "project", "run", workflow, ".", *variables)

    with session.chdir(tree):
        run("all", steps=120)
        for workflow in ("pairs", "questions", "intents", "few"):
            run(workflow, more_steps=20)
        run("small", steps=120, more_steps=20)  # from the pipeline that "all" has trained
        texts = "assets/support/train.jsonl"  # other texts than the workflows' own
        if "SPACY_BERTFT_DATA" in os.environ:
            entities = Path(os.environ["SPACY_BERTFT_DATA"], "ner/wikigold")
            run("adapt", domain_texts=texts, domain_entities=entities, adapt_steps=4, domain_steps=20)
        run(
            "pretrain",
            texts=texts,
            pretrain_teacher="assets/encoder",
            pretrain_subwords=2500,
            pretrain_embedding_steps=2,
            pretrain_steps=4,
            pretrain_batch_size=8,
            pretrain_long_steps=2,
            pretrain_long_batch_size=2,
            pretrain_last_steps=2,
        )
    clones = Path(session.create_tmp()) / "clones"
    shutil.rmtree(clones, ignore_errors=True)
    shutil.copytree(ROOT / "projects", clones)
    for clone in sorted(clones.iterdir()):
        with session.chdir(clone):
            run("all", encoder=ROOT / "assets/encoder", steps=20)


def constraints_without(session: nox.Session, *packages: str) -> str:
    """A file of our constraints without these packages."""
    free = tuple(f"{package}==" for package in packages)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    path = Path(session.create_tmp()) / "constraints.txt"
    path.write_text("".join(line for line in lines if not line.startswith(free)), encoding="utf-8")
    return str(path)
