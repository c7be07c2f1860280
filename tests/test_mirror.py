"""The tests mirror the package, and those that the lowest transformers has to pass are marked."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import spacy_bertft

TESTS = Path(__file__).parent
PACKAGE = Path(spacy_bertft.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.glob("*/**/*.py"))
FILES = sorted(path.relative_to(TESTS) for path in TESTS.rglob("test_*.py"))

# Modules that no file of tests is named after, and the file that tests them.
ELSEWHERE = {
    "engines/base.py": "engines/test_choose.py",  # types alone
    "engines/family_names.py": "engines/test_family_weights.py",  # names by which weights are found
    "engines/net.py": "engines/test_family_weights.py",  # what is made of them
    "encoder/exported.py": "engines/test_onnx.py",  # what runs its graph
    "encoder/folders.py": "encoder/test_loading.py",  # the errors of loading
    "encoder/text_encoder.py": "encoder/test_encoder.py",
    "learning/step_settings.py": "learning/test_shim.py",
    "components/head_modules.py": "components/test_hidden_layer.py",
    "components/learning_head.py": "components/test_head_pipe.py",
    "components/requirements.py": "jobs/export/test_export.py",
    "tasks/modules.py": "components/test_task.py",
    "components/hidden_rows.py": "components/test_distillation.py",
    "components/distill_settings.py": "components/test_distillation.py",  # of the same callback
    "components/transformer_source.py": "peer/test_transformer.py",  # needs spacy-transformers
    "jobs/convert/docs.py": "jobs/convert/test_convert.py",  # each format's reader makes records, and docs of them
    "jobs/convert/format.py": "jobs/convert/test_registry.py",
    "jobs/convert/json_items.py": "jobs/convert/formats/test_jsonl.py",
    "jobs/convert/label_studio_tasks.py": "jobs/convert/formats/test_label_studio.py",
    "jobs/convert/plan.py": "jobs/convert/test_convert.py",
    "jobs/convert/questions.py": "jobs/convert/formats/test_squad.py",
    "jobs/convert/records.py": "jobs/convert/formats/test_jsonl.py",
    "jobs/convert/rows.py": "jobs/convert/formats/test_jsonl.py",
    "jobs/convert/sentences.py": "jobs/convert/formats/test_conll.py",
    "jobs/convert/survey.py": "jobs/convert/test_convert.py",
    "jobs/convert/tally.py": "jobs/convert/test_convert.py",
    "learning/tally.py": "components/progress/test_figures.py",  # it holds what they are taken from
    "jobs/distill/comparison.py": "jobs/distill/test_distill.py",  # the parts of one function
    "jobs/distill/config.py": "jobs/distill/test_distill.py",
    "jobs/distill/parts.py": "jobs/distill/test_distill.py",
    "jobs/distill/teachers.py": "components/test_distillation.py",
    "jobs/evaluate.py": "cli/test_evaluate.py",  # what it gives is what the command shows
    "jobs/export/compare.py": "jobs/export/test_export.py",  # the parts of one function
    "jobs/export/report.py": "jobs/export/test_export.py",
    "jobs/export/write.py": "jobs/export/test_export.py",
    "jobs/hub/connection.py": "jobs/hub/test_push.py",  # its errors
    "jobs/pretraining/config.py": "jobs/pretraining/test_adapt.py",
    "jobs/pretraining/resume.py": "jobs/pretraining/test_adapt.py",
    "jobs/pretraining/starting_model.py": "jobs/pretraining/test_adapt.py",
    "jobs/pretraining/training_loop.py": "jobs/pretraining/test_adapt.py",
    "jobs/templates.py": "jobs/recipes/test_render.py",  # what the templates are made into
    "jobs/recipes/tasks.py": "test_configs.py",  # each task's config
    "jobs/checkpoints.py": "jobs/training/test_train.py",  # what is left of runs that were stopped
    "jobs/training/batches.py": "jobs/training/test_train.py",
    "jobs/training/checkpoint.py": "jobs/training/test_train.py",
    "jobs/training/gradients.py": "jobs/training/test_launch.py",
    "jobs/training/prepare.py": "cli/test_train.py",
    "jobs/training/identity.py": "jobs/training/test_train.py",
    "jobs/training/loop.py": "jobs/training/test_train.py",
    "jobs/training/pipeline_state.py": "jobs/training/test_train.py",
    "jobs/shrink/pipeline.py": "jobs/shrink/test_shrink.py",  # the parts of one function
    "jobs/shrink/report.py": "jobs/shrink/test_shrink.py",
    "jobs/shrink/whole.py": "jobs/shrink/test_shrink.py",
    "jobs/report/answers_and_numbers.py": "jobs/report/test_make.py",  # each kind of head is judged in a pipeline
    "jobs/report/comparison.py": "jobs/report/test_make.py",
    "jobs/report/data.py": "jobs/report/test_make.py",
    "jobs/report/entities.py": "jobs/report/test_make.py",
    "jobs/report/findings.py": "jobs/report/test_slices.py",  # of the same head
    "jobs/report/heads.py": "jobs/report/test_make.py",  # types alone
    "jobs/report/judge.py": "jobs/report/test_make.py",
    "jobs/report/settings.py": "jobs/report/test_page.py",
    "jobs/report/views.py": "jobs/report/test_make.py",
    "jobs/tune/configs.py": "jobs/tune/test_space.py",
    "jobs/tune/results.py": "jobs/tune/test_search.py",
    "jobs/tune/worker.py": "jobs/tune/test_trial.py",  # the process of a trial
    "tasks/answer_spans.py": "tasks/test_qa.py",
    "tasks/calibration.py": "jobs/test_calibrate.py",
    "tasks/scorers.py": "tasks/test_qa.py",
    "cli/__init__.py": "cli/test_convert.py",
    "cli/console.py": "cli/test_adapt.py",
    "cli/migrate.py": "jobs/test_migrate.py",
    "cli/spacy_command.py": "cli/test_convert.py",
}

# What leads to transformers: the package itself, helpers of the tests that use it, and fixtures of conftest.py.
HELPERS = {"transformers", "checkpoints", "tiny", "encoders", "pipelines", "runs", "training_runs"}
FIXTURES = {"tiny_bert", "tiny_encoder"}


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def says_nothing(tree):
    """Whether a module has no more than a docstring and imports."""
    return all(
        isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in tree.body
    )


def touches_transformers(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and HELPERS & {alias.name.split(".")[0] for alias in node.names}:
            return True
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in HELPERS:
            return True
        if isinstance(node, ast.arg) and node.arg in FIXTURES:
            return True
    return False


def marks_of(tree):
    """The names of a file's own marks: pytestmark = pytest.mark.name, or a list of such."""
    marks = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    return {node.attr for mark in marks for node in ast.walk(mark) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_each_module_has_tests_named_after_it(module):
    mirrored = module.with_name(f"test_{module.name}")
    there = (TESTS / mirrored).is_file() or says_nothing(tree_of(PACKAGE / module))
    listed = module.as_posix() in ELSEWHERE
    assert there is not listed, f"expected tests/{mirrored}, or else the file that tests it in ELSEWHERE"


def test_modules_tested_elsewhere_are_there_and_so_are_their_tests():
    assert set(ELSEWHERE) <= {module.as_posix() for module in MODULES}
    assert set(ELSEWHERE.values()) <= {file.as_posix() for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_what_touches_transformers_is_marked(file):
    tree = tree_of(TESTS / file)
    assert "touches_transformers" in marks_of(tree) or not touches_transformers(tree)


def test_what_needs_spacy_transformers_is_marked():
    marked = {file.as_posix() for file in FILES if "peer" in marks_of(tree_of(TESTS / file))}
    assert marked == {file.as_posix() for file in FILES if file.parts[0] == "peer"} == {"peer/test_transformer.py"}


def test_what_needs_tools_is_in_their_folder_and_marked():
    marked = {file.as_posix() for file in FILES if "tools" in marks_of(tree_of(TESTS / file))}
    assert marked == {file.as_posix() for file in FILES if file.parts[0] == "tools"}
    assert marked
