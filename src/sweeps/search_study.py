"""The memory of a search: an Optuna study in a file, which outlives the process."""

import datetime as dt
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from src.errors import InputError, check_number

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

DIGEST, PRUNED, WHY = "segue.digest", "segue.pruned", "segue.why"
"""Kept with a study or trial besides parameters and values: the digest of the set-up, the epoch in which the trial was
pruned, and why it failed. A trial that failed without a reason was lost with its process."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How trials are chosen and given up.

    Args:
        mode: `max` or `min`: which value of the objective is best.
        seed: decides what is tried.
        random_trials: trials drawn at random before the sampler learns from them.
        prune_after_trials: finished trials before one is held against them.
        prune_after_epochs: epochs that no trial is pruned in.
    """

    mode: str
    seed: int
    random_trials: int
    prune_after_trials: int
    prune_after_epochs: int

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise InputError(f"monitor.mode must be max or min, got {self.mode!r}")
        for name in ("random_trials", "prune_after_trials", "prune_after_epochs"):
            check_number(f"search.{name}", getattr(self, name), whole=True, least=0)
        check_number("seed", self.seed, whole=True, least=0)


def make_pruner(*, after_trials: int, after_epochs: int) -> "BasePruner":
    """Gives up a trial whose best value so far is worse than the median of the others at the same epoch."""
    import optuna

    return optuna.pruners.MedianPruner(n_startup_trials=after_trials, n_warmup_steps=after_epochs + 1)  # from 1


def open_storage(url: str) -> "BaseStorage":
    """The file or database of studies.

    Raises:
        InputError: it cannot be opened.
    """
    import optuna
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    patience = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}  # parallel jobs write to it
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=patience)
    except (SQLAlchemyError, ArgumentError, RuntimeError, ImportError, OSError, ValueError) as error:
        raise _unusable(url, error) from error


def _unusable(url: str, error: Exception) -> InputError:
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
    return InputError(f"cannot open search.storage={url}: {first}; sqlite:///optuna.db is usual")


@contextmanager
def open_study(
    *, url: str, name: str | None, setup: Mapping[str, Any], resume: bool, settings: SearchSettings
) -> Iterator["Study"]:
    """A study, kept to this process; trials that a killed process left behind are queued again.

    Args:
        url: where studies are kept.
        name: of the study; None for one of its own, or, to be resumed, the latest with the same set-up.
        setup: all that must be equal for trials to be comparable.
        resume: go on with a study that there is.
        settings: how trials are chosen.

    Raises:
        InputError: it cannot be opened, has another set-up, or another process is at work on it.
    """
    import numpy as np
    import optuna

    digest = hashlib.sha256(json.dumps(setup, sort_keys=True).encode()).hexdigest()[:8]
    with _alone(url, "storage", wait=True):
        storage = open_storage(url)
        known = {study.study_name: study for study in storage.get_all_studies()}
        if name is None and resume:
            same = [s for s in known.values() if s.user_attrs.get(DIGEST) == digest]
            name = max((s.study_name for s in same), default=None)  # the names of these end in the date
        name = name or f"search {digest} {dt.datetime.now():%Y-%m-%d %H:%M:%S.%f}"
        if name in known and not resume:
            raise InputError(f"there is a study {name!r} in {url}; add resume=true, or choose another search.study")
        if name in known and known[name].user_attrs.get(DIGEST) != digest:
            raise InputError(
                f"the study {name!r} in {url} searches another space or has other settings; give the same command "
                "again, or choose another search.study"
            )
        direction: Any = {"max": "maximize", "min": "minimize"}[settings.mode]
        study = optuna.create_study(study_name=name, storage=storage, direction=direction, load_if_exists=True)
        study.set_user_attr(DIGEST, digest)
    with _alone(url, name, wait=False):
        _queue_again(study)
        seed = int(np.random.SeedSequence([settings.seed, len(study.trials)]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=settings.random_trials, constant_liar=True
        )
        yield study


@contextmanager
def _alone(url: str, what: str, *, wait: bool) -> Iterator[None]:
    """Keep a file of studies, or one study in it, to this process; a database can do that by itself."""
    if not url.startswith("sqlite:///") or ":memory:" in url:
        yield
        return
    file = Path(url.removeprefix("sqlite:///"))
    mark = hashlib.sha256(what.encode()).hexdigest()[:8]
    lock = FileLock(file.parent / f".{file.name}.{mark}.lock", timeout=-1 if wait else 0)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"another process is at work on the study {what!r}; wait for it, or leave out resume=true"
        ) from None
    except OSError as error:
        raise _unusable(url, error) from error
    try:
        yield
    finally:
        if not wait:  # who waits for a lock must not be left with a file that is gone
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _queue_again(study: "Study") -> None:
    """Trials that were running when their process died have failed by no fault of theirs."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)


def finished(study: "Study") -> list["FrozenTrial"]:
    """Trials that are over: complete, pruned, or failed by themselves."""
    from optuna.trial import TrialState

    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    return [trial for trial in ended if trial.state != TrialState.FAIL or WHY in trial.user_attrs]


def record_result(study: "Study", trial: "Trial", *, value: float | None, why: str | None = None) -> "FrozenTrial":
    """Record in a study what came of a trial; whether it was pruned was recorded where it ran.

    Args:
        study: the study.
        trial: one that it was asked for.
        value: of the objective; None or not finite where there is none.
        why: it failed, if it did.
    """
    from optuna.trial import TrialState

    if why is None and PRUNED in study.get_trials(deepcopy=False)[trial.number].user_attrs:
        return study.tell(trial, state=TrialState.PRUNED)
    if why is None and (value is None or not math.isfinite(value)):
        why = f"the objective is {value}"
    if why is not None:
        trial.set_user_attr(WHY, why)
        return study.tell(trial, state=TrialState.FAIL)
    return study.tell(trial, value)


def best_so_far(study: "Study") -> "FrozenTrial | None":
    """The best trial that was not pruned; None where none is complete."""
    try:
        return study.best_trial
    except ValueError:
        return None
