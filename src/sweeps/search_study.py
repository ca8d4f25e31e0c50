"""The study of a search: kept by Optuna in a database, so that a stopped search can be resumed, and how it is shown."""

import datetime as dt
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from filelock import FileLock, Timeout

from segue.errors import InputError
from segue.runs.atomic import write_whole
from segue.settings import Setting, settings
from segue.sweeps.search_space import as_typed

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

DIGEST, PRUNED, WHY = "segue.digest", "segue.pruned", "segue.why"
"""User attributes of a study or trial: the digest of the settings, the epoch in which the trial was pruned, the reason
why it failed. A failed trial without a reason was lost because its process died."""


def open_storage(url: str) -> "BaseStorage":
    """Open the database of studies.

    Args:
        url: its URL, such as `sqlite:///optuna.db`.

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
    return InputError(f"cannot open search.storage={url}: {first}; the default is sqlite:///optuna.db")


@settings("search")
@contextmanager
def open_study(
    *,
    url: str,
    setup: Mapping[str, Any],
    resume: bool,
    mode: Annotated[Literal["max", "min"], Setting("which value of the objective is best", key="monitor.mode")],
    seed: Annotated[int, Setting("of the sampler", least=0, key="seed")],
    random_trials: int,
) -> Iterator["Study"]:
    """Open a study for this process alone. Unfinished trials of a killed process are queued again.

    Args:
        url: URL of the database of studies.
        setup: all settings that must be equal for trials to be comparable.
        resume: continue the latest study with the same settings, if there is one.
        random_trials: number of random trials before the sampler learns from them.

    Yields:
        The study.

    Raises:
        InputError: the study cannot be opened, or is in use by another process.
    """
    import numpy as np
    import optuna

    digest = hashlib.sha256(json.dumps(setup, sort_keys=True).encode()).hexdigest()[:8]
    with _lock(url, "storage", wait=True):
        storage = open_storage(url)
        same = [one.study_name for one in storage.get_all_studies() if one.user_attrs.get(DIGEST) == digest]
        name = f"search {digest} {dt.datetime.now():%Y-%m-%d %H:%M:%S.%f}"
        if resume and same:
            name = max(same)  # their names end in the date
        study = optuna.create_study(study_name=name, storage=storage, direction=f"{mode}imize", load_if_exists=True)
        study.set_user_attr(DIGEST, digest)
    with _lock(url, name, wait=False):
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):  # their process died
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params)
        own_seed = int(np.random.SeedSequence([seed, len(study.trials)]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=own_seed, n_startup_trials=random_trials, constant_liar=True)
        yield study


@contextmanager
def _lock(url: str, what: str, *, wait: bool) -> Iterator[None]:
    """Lock an sqlite file of studies, or one study in it. Other databases lock by themselves."""
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
            f"study {what!r} is in use by another process; wait for it, or leave out resume=true"
        ) from None
    except OSError as error:
        raise _unusable(url, error) from error
    try:
        yield
    finally:
        if not wait:  # a process that waits for a lock must not lose its file
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def finished(study: "Study") -> list["FrozenTrial"]:
    """Finished trials: complete, pruned, or failed with an error.

    Args:
        study: the study.

    Returns:
        The trials; those lost with their process are left out.
    """
    from optuna.trial import TrialState

    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    return [trial for trial in ended if trial.state != TrialState.FAIL or WHY in trial.user_attrs]


def record_result(study: "Study", trial: "Trial", *, value: Any, why: str | None = None) -> "FrozenTrial":
    """Record the result of a trial. The process that ran the trial has recorded whether it was pruned.

    Args:
        study: the study.
        trial: a trial of this study.
        value: what the trial returned, its value of the objective.
        why: why it failed; None if it did not fail.

    Returns:
        The finished trial.
    """
    from optuna.trial import TrialState

    if why is None and PRUNED in study.get_trials(deepcopy=False)[trial.number].user_attrs:
        return study.tell(trial, state=TrialState.PRUNED)
    if why is None and not (isinstance(value, int | float) and math.isfinite(value)):
        why = f"the objective is {value}"
    if why is not None:
        trial.set_user_attr(WHY, why)
        return study.tell(trial, state=TrialState.FAIL)
    return study.tell(trial, value)


def best_so_far(study: "Study") -> "FrozenTrial | None":
    """The best complete trial; None if no trial is complete."""
    with suppress(ValueError):
        return study.best_trial
    return None


def write_table(study: "Study", path: Path) -> Path:
    """Write `search.csv`: number, state, value, epoch of pruning, parameters and error of each finished trial.

    Args:
        study: the study.
        path: file to write.

    Returns:
        `path`.
    """
    import pandas as pd

    trials = finished(study)
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "value": "" if trial.value is None else repr(trial.value),
            "pruned_in_epoch": trial.user_attrs.get(PRUNED, ""),
            **{name: as_typed(value) for name, value in trial.params.items()},
            "why": trial.user_attrs.get(WHY, ""),
        }
        for trial in trials
    ]
    names = sorted({name for trial in trials for name in trial.params})
    frame = pd.DataFrame(rows, columns=["trial", "state", "value", "pruned_in_epoch", *names, "why"])
    write_whole(path, lambda partial: frame.to_csv(partial, index=False))
    return path


def draw(study: "Study", folder: Path, monitor: str) -> list[Path]:
    """Draw, with Optuna, the history of a search, each parameter against the objective, and their importance.

    Args:
        study: the study.
        folder: where `search_<name>.png` are written.
        monitor: name of the objective.

    Returns:
        The files. The importance of parameters (fANOVA) is left out where there are too few trials for it.
    """
    import matplotlib as mpl
    from matplotlib import pyplot
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as pictures

    mpl.use("agg")
    kinds: dict[str, Callable[[], Any]] = {
        "history": lambda: pictures.plot_optimization_history(study, target_name=monitor),
        "parameters": lambda: pictures.plot_slice(study, target_name=monitor),
        "importance": lambda: pictures.plot_param_importances(study, FanovaImportanceEvaluator(seed=0)),
    }
    paths = []
    for kind, plot in kinds.items():
        with mpl.rc_context(), warnings.catch_warnings(action="ignore"), suppress(ValueError, RuntimeError):
            plot()
            path = folder / f"search_{kind}.png"
            write_whole(path, partial(pyplot.savefig, dpi=120, bbox_inches="tight"))
            paths.append(path)
        pyplot.close("all")
    return paths
