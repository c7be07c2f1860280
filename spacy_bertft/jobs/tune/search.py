"""The search itself: trial after trial, until as many as were asked for are over."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from thinc.api import Config

from spacy_bertft.errors import ConfigError
from spacy_bertft.files import replace_file
from spacy_bertft.jobs.tune.configs import filled_config, settings_of, with_values
from spacy_bertft.jobs.tune.curve import Curve, Evaluation
from spacy_bertft.jobs.tune.default_space import default_space
from spacy_bertft.jobs.tune.plots import write_plots
from spacy_bertft.jobs.tune.results import Row, best_of, keep_model, row_of, write_best, write_trials
from spacy_bertft.jobs.tune.space import Space, read_space, space_text
from spacy_bertft.jobs.tune.study import (
    FAILED,
    claim,
    finished,
    give_back,
    give_back_dead,
    locked,
    need_optuna,
    open_study,
    start_params,
    values_of,
)
from spacy_bertft.jobs.tune.trial import CONFIG, LOG, Outcome, model_of, outputs_of, run_trial
from spacy_bertft.jobs.writing import writing

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

SPACE = "space.cfg"
_RESULTS = "results"  # what the lock of all files but the journal is named after
_FEW = 4  # evaluations
_SELDOM = (
    f"runs have fewer than {_FEW} evaluations: with a lower training.eval_frequency, their best scores would be seen, "
    "and bad trials could be stopped earlier"
)
_HOPELESS = 3  # trials that failed, and none that didn't


@dataclass(frozen=True, slots=True)
class Options:
    """How to search."""

    trials: int  # of the whole search, those of earlier runs and of other processes included
    seed: int = 0  # of the suggestions
    prune_after: int = 5  # trials that run to their end before one may be stopped
    save: bool = True  # the pipeline of the best trial
    code: Path | None = None  # Python file that registers functions
    gpu: int = -1  # as in spaCy's --gpu-id


class Progress(Protocol):
    """What is told as a search goes on."""

    def note(self, text: str) -> None:
        """Something worth knowing."""

    def begins(self, number: int, values: Mapping[str, Any]) -> None:
        """A trial begins."""

    def evaluated(self, evaluation: Evaluation, best: float) -> None:
        """The trial was evaluated. best: its best score so far."""

    def ends(self, rows: list[Row], row: Row) -> None:
        """The trial is over. rows: all that are."""


@dataclass(frozen=True)
class Search:
    """A search in a folder: a config, a space, and a journal of trials."""

    folder: Path
    config: Config  # filled in, variables kept
    space: Space
    options: Options
    study: Study

    @classmethod
    def open(
        cls, config: Path, folder: Path, *, overrides: Mapping[str, Any], space: Path | None, options: Options
    ) -> Search:
        """Begin a search, or go on with the one in the folder. space: a file; None: `default_space`."""
        need_optuna()
        filled = filled_config(config, overrides)
        settings = settings_of(filled)
        chosen = default_space(settings) if space is None else read_space(space, settings)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        study = open_study(folder, filled, chosen, seed=options.seed, unpruned=options.prune_after)
        search = cls(folder, filled, chosen, options, study)
        with writing(folder), locked(folder / _RESULTS):
            replace_file(folder / SPACE, lambda part: part.write_text(space_text(chosen), encoding="utf-8"))
        return search

    @property
    def own_values(self) -> dict[str, Any] | None:
        """The values of the config itself, which the first trial has; None if one is outside the space."""
        params = start_params(self.config, self.space)
        return None if params is None else values_of(params, self.space)

    def rows(self) -> list[Row]:
        """All trials that are over."""
        return [row_of(trial, self.space) for trial in finished(self.study)]

    def run(self, progress: Progress) -> list[Row]:
        """Run trials until as many as were asked for are over, or run in other processes; then write the plots."""
        for number in give_back_dead(self.study, self._folder_of):
            self._clean(number)
            progress.note(f"trial {number} was interrupted; its values are tried again")
        while (trial := claim(self.study, self.space, trials=self.options.trials)) is not None:
            self._one(trial, progress)
        rows = self.rows()
        if len(rows) < self.options.trials:
            progress.note(f"{self.options.trials - len(rows)} of the trials still run in another process")
        with writing(self.folder), locked(self.folder / _RESULTS):
            write_plots(self.folder, rows, self.space)
        return rows

    def _one(self, trial: Trial, progress: Progress) -> None:
        values = values_of(trial.params, self.space)
        progress.begins(trial.number, values)
        try:
            folder = self._folder_of(trial.number)
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                with_values(self.config, values).to_disk(folder / CONFIG)
                outcome = self._train(trial, folder, progress)
        except BaseException:  # Ctrl-C above all
            give_back(self.study, trial.number)
            self._clean(trial.number)
            raise
        if outcome.state == "failed" and not self.rows() and values == self.own_values:
            give_back(self.study, trial.number)
            raise self._no_start(folder, outcome)
        row = self._record(trial, folder, outcome)
        self._clean(trial.number)
        if row is None:
            progress.note(f"trial {trial.number} was given to another process, since this one seemed dead")
            return
        progress.ends(self.rows(), row)
        if outcome.state == "done" and outcome.n_evaluations < _FEW:
            progress.note(_SELDOM)
        self._check_hope()

    def _train(self, trial: Trial, folder: Path, progress: Progress) -> Outcome:
        from optuna.exceptions import UpdateFinishedTrialError

        def report(evaluation: Evaluation, curve: Curve) -> bool:
            try:
                for place, score in curve.add(evaluation):
                    trial.report(score, place)
            except UpdateFinishedTrialError:  # another process took the trial for dead, and runs it again
                return True
            assert curve.best is not None
            progress.evaluated(evaluation, curve.best.score)
            return trial.should_prune()

        options = self.options
        return run_trial(folder, code=options.code, gpu=options.gpu, save=options.save, report=report)

    def _record(self, trial: Trial, folder: Path, outcome: Outcome) -> Row | None:
        """Note a trial in the journal, and keep what it made if it is the best. None if it is not ours any more."""
        from optuna.trial import TrialState

        with writing(self.folder), locked(self.folder / _RESULTS):
            if self.study.get_trials(deepcopy=False)[trial.number].state != TrialState.RUNNING:
                return None
            best, found = best_of(self.rows()), outcome.best
            notes = {} if found is None else {"score": found.score, "step": found.step, "epoch": found.epoch}
            for key, value in {**notes, **({FAILED: outcome.reason} if outcome.state == "failed" else {})}.items():
                trial.set_user_attr(key, value)
            record = -math.inf if best is None or best.score is None else best.score
            is_best = outcome.state == "done" and found is not None and found.score > record
            # First the files: a search killed here runs the trial again.
            if is_best and self.options.save:
                keep_model(model_of(folder), self.folder)
            if outcome.state == "done" and found is not None:
                self.study.tell(trial, found.score)
            else:  # Optuna's state for a failure would keep the sampler from learning where not to go
                self.study.tell(trial, state=TrialState.PRUNED)
            rows = self.rows()
            now_best = best_of(rows)
            if now_best is not None:
                write_best(self.folder, self.config, now_best)
            write_trials(self.folder, rows, self.space)
        return next(row for row in rows if row.number == trial.number)

    def _no_start(self, folder: Path, outcome: Outcome) -> ConfigError:
        return ConfigError(
            f"The config itself can't be trained: {outcome.reason}. Expected one that `spacy train` takes, since the "
            f"first trial is the config as it is. {folder / LOG} has all it said. Correct the config or the data, and "
            "run the command again."
        )

    def _check_hope(self) -> None:
        rows = self.rows()
        if len(rows) >= _HOPELESS and all(row.state == "failed" for row in rows):
            raise ConfigError(
                f"All of the first {len(rows)} trials failed, the last with: {rows[-1].reason}. Expected settings that "
                f"can be trained. {self._folder_of(rows[-1].number) / LOG} has all it said. Correct the config, the "
                "data or the space, and search in another --output."
            )

    def _folder_of(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04}"

    def _clean(self, number: int) -> None:
        shutil.rmtree(outputs_of(self._folder_of(number)), ignore_errors=True)
