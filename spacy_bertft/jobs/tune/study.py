"""Optuna's study of a search: its journal on disk, what it suggests, and which trials count."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinc.api import Config

from spacy_bertft.errors import ConfigError, how_to_install
from spacy_bertft.jobs.tune.configs import differences, settings_of
from spacy_bertft.jobs.tune.space import Range, Space, space_text
from spacy_bertft.jobs.tune.trial import is_alive

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

_JOURNAL = "journal.log"
_NAME = "bertft tune"
_CONFIG, _SPACE = "config", "space"  # attributes of the study
_UNPRUNED = 3  # tenths of a run in which no trial is stopped: rates are still rising
FAILED = "failed"  # attribute of a trial: why it failed


def need_optuna() -> None:
    """Raise a ConfigError that names the extra if Optuna or matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
        import optuna
    except ImportError as error:
        raise ConfigError(
            f'`bertft tune` needs {error.name}, which is not installed. Expected the extra "tune". Install it: '
            f"{how_to_install('tune')}."
        ) from error
    optuna.logging.set_verbosity(logging.WARNING)


def open_study(folder: Path, config: Config, space: Space, *, seed: int, unpruned: int) -> Study:
    """Open the search in a folder, or begin one. Raises a ConfigError if it is of another config or space.

    seed: of the suggestions. unpruned: the number of trials that run to their end before one may be stopped.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path = folder / _JOURNAL
    try:
        _drop_torn_line(path)
        storage = JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
    except (ValueError, KeyError, OSError) as error:
        raise ConfigError(
            f"{path}: found a journal that can't be read ({error}); expected the one of a search; fix: move it away, "
            "or choose another --output"
        ) from error
    settings: dict[str, Any] = {
        "sampler": _sampler(seed),
        "pruner": optuna.pruners.MedianPruner(n_startup_trials=unpruned, n_warmup_steps=_UNPRUNED),
    }
    try:
        study = optuna.create_study(storage=storage, study_name=_NAME, direction="maximize", **settings)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=_NAME, **settings)
    else:
        start = start_params(config, space)
        if start is not None:
            study.enqueue_trial(start)
    for name, text in ((_CONFIG, config.to_str()), (_SPACE, space_text(space))):
        if name not in study.user_attrs:
            study.set_user_attr(name, text)
    _check_same(study, config, space, folder)
    return study


def _drop_torn_line(path: Path) -> None:
    """Remove an incomplete last line, which a full disk or a power cut may leave and Optuna can't read past."""
    if not path.is_file():
        return
    with locked(path):  # or another process may be writing it just now
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which other processes wait for. One that a killed process held opens after 30 s."""
    from optuna.storages.journal import JournalFileOpenLock

    lock = JournalFileOpenLock(str(path))
    lock.acquire()
    try:
        yield
    finally:
        with suppress(RuntimeError):  # another process has removed it as a leftover
            lock.release()


def _check_same(study: Study, config: Config, space: Space, folder: Path) -> None:
    there = study.user_attrs
    what = ""
    if there[_SPACE] != space_text(space):
        what = f"another space:\n\n{there[_SPACE]}\nand this one is:\n\n{space_text(space)}\n"
    elif there[_CONFIG] != config.to_str():
        what = f"another config, which differs in {differences(Config().from_str(there[_CONFIG]), config)};"
    if what:
        raise ConfigError(
            f"{folder}: found a search of {what} expected the config, the overrides and the space that it began with, "
            "since scores of others can't be compared; fix: give those, or choose another --output"
        )


def start_params(config: Config, space: Space) -> dict[str, Any] | None:
    """Optuna's parameters for the values of the config itself; None if one is outside the space."""
    settings = settings_of(config)
    found = {setting.name: setting.place(settings[setting.name]) for setting in space}
    return None if None in found.values() else found


def _sampler(seed: int) -> BaseSampler:
    """TPE (Bergstra et al., 2011), seeded anew for each trial.

    A search that was interrupted then suggests what it would have otherwise, and processes that share one don't
    suggest the same values. The first 5 trials are random.
    """
    import numpy as np
    from optuna.samplers import BaseSampler, TPESampler

    class Seeded(BaseSampler):
        def __init__(self) -> None:
            self._tpe = TPESampler(seed=seed)

        def before_trial(self, study: Study, trial: FrozenTrial) -> None:
            place = sum(one.number < trial.number and counts(one) for one in study.get_trials(deepcopy=False))
            drawn = int(np.random.SeedSequence([seed, place]).generate_state(1)[0])
            self._tpe = TPESampler(seed=drawn, n_startup_trials=5)

        def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
            return self._tpe.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
            return self._tpe.sample_relative(study, trial, search_space)

        def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
            return self._tpe.sample_independent(study, trial, param_name, param_distribution)

    return Seeded()


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for setting in space:
        if not isinstance(setting, Range):
            found[setting.name] = CategoricalDistribution([json.dumps(option) for option in setting.options])
        elif setting.whole:
            found[setting.name] = IntDistribution(
                int(setting.low), int(setting.high), log=setting.log, step=int(setting.step or 1)
            )
        else:
            found[setting.name] = FloatDistribution(setting.low, setting.high, log=setting.log, step=setting.step)
    return found


def values_of(params: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """The values for the config, from Optuna's parameters."""
    return {setting.name: setting.value(params[setting.name]) for setting in space if setting.name in params}


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for: not one that was interrupted, or waits to be run."""
    from optuna.trial import TrialState

    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def finished(study: Study) -> list[FrozenTrial]:
    """The trials that ran to their end, were stopped for their scores, or failed."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def claim(study: Study, space: Space, *, trials: int) -> Trial | None:
    """Get the next trial; None if as many as were asked for are finished or running."""
    from optuna.trial import TrialState

    if sum(map(counts, study.get_trials(deepcopy=False))) >= trials:
        return None
    trial = study.ask(_distributions(space))
    # Another process may have begun one at the same time: those with lower numbers go first.
    if sum(one.number < trial.number and counts(one) for one in study.get_trials(deepcopy=False)) >= trials:
        study.tell(trial, state=TrialState.FAIL)
        return None
    return trial


def give_back(study: Study, number: int) -> bool:
    """Take an interrupted trial out of the count, and have its values tried again. False if it is finished already."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    trial = study.get_trials(deepcopy=False)[number]
    try:
        study.tell(number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):  # another process was faster
        return False
    if trial.params:
        study.enqueue_trial(trial.params)
    return True


def give_back_dead(study: Study, folder_of: Callable[[int], Path]) -> list[int]:
    """Give back the trials whose processes are gone: killed, or with the machine. Returns their numbers."""
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    dead = [
        trial.number
        for trial in running
        if trial.datetime_start is not None
        and not is_alive(folder_of(trial.number), started=trial.datetime_start.timestamp())
    ]
    return [number for number in dead if give_back(study, number)]
