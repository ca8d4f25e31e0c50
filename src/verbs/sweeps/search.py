"""A search for the best settings, as a multirun: `python train.py -m search=optuna`.

Its study is kept by Optuna in a database, so that a stopped search can be resumed.
"""

import datetime as dt
import hashlib
import json
import math
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from filelock import FileLock
from hydra.core.utils import JobReturn
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from segue.atomic import write_whole
from segue.errors import InputError
from segue.reports.console import console
from segue.runs.folder import locked
from segue.runs.hydra_text import quoted
from segue.runs.provenance import call_of
from segue.settings import Setting, settings
from segue.verbs.sweeps.jobs import Sweep, outcome
from segue.verbs.sweeps.search_space import Space, as_typed

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

DIGEST, PRUNED, WHY = "segue.digest", "segue.pruned", "segue.why"
"""User attributes of a study or trial: the digest of the settings, the epoch in which the trial was pruned, the reason
why it failed. A failed trial without a reason was lost because its process died."""
# A search stops if its first six trials all fail. If half of the space fails, this happens in 1 search of 64.
_MAX_FAILED = 6
# Overrides in which comparable trials may differ.
_NOT_IN_SETUP = ("resume=", "run_name=", "logger", "trainer.accelerator=")


@settings("search")
class Search(Sweep):
    """Asks Optuna for trials, runs them with the launcher, and reports the results to Optuna, in batches.

    A trial is a job; its value is what the verb returns, the best value of `monitor.metric`. The study is kept in a
    file, therefore `resume=true` can continue a stopped search.
    """

    def __init__(
        self,
        *,
        num_trials: Annotated[int, Setting("number of trials, including those of a resumed search", least=1)],
        batch: Annotated[
            int | None, Setting("number of trials at once; null: as many as the launcher runs in parallel", least=1)
        ],
        storage: Annotated[str, Setting("URL of the database that keeps studies")],
        random_trials: Annotated[int, Setting("random trials before the sampler (TPE) learns from them", least=0)],
        prune_after_trials: Annotated[int, Setting("complete trials before any trial is pruned", least=0)],
        prune_after_epochs: Annotated[int, Setting("epochs in which no trial is pruned", least=0)],
        space: Annotated[Mapping[str, str], Setting("the searched values of each key, in Hydra's sweep grammar")],
        unused: Annotated[
            Mapping[str, Sequence[str]], Setting("models that have a key which does not change them, by key")
        ],
    ) -> None:
        super().__init__()
        self._num_trials, self._batch, self._storage = num_trials, batch, storage
        self._random_trials, self._space, self._unused = random_trials, space, unused
        self._pruning = {"prune_after_trials": prune_after_trials, "prune_after_epochs": prune_after_epochs}

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run the search.

        Raises:
            InputError: the recipe is `auto`, a key cannot be searched, a setting is out of range, the study cannot be
                used, the first trials all fail, or no trial was completed.
        """
        if self.cfg.recipe.name == "auto":
            raise InputError(
                "recipe=auto chooses the recipe of one run, and a search tries settings of one recipe; name it, such "
                "as recipe=playlists"
            )
        with console.status("composing the search space"):
            space = self._make_space(arguments)
        for dimension in space.dimensions:
            if self.cfg.monitor.metric == "val/loss" and dimension.name.partition(".")[0] == "loss":
                raise InputError(
                    f"{dimension.name} is searched with monitor.metric=val/loss, but values of different losses cannot "
                    "be compared; add monitor.metric=val/ndcg_at_10 monitor.mode=max"
                )
        self.validate_batch_is_legal([space.words()])
        batch = self._batch or _num_parallel(self.cfg.hydra.launcher)
        setup = {
            "fixed": sorted(word for word in space.fixed if not word.startswith(_NOT_IN_SETUP)),
            "space": {dimension.name: dimension.text for dimension in space.dimensions},
            "monitor": [str(self.cfg.monitor.metric), str(self.cfg.monitor.mode)],
        }
        with open_study(
            url=self._storage,
            setup=setup,
            resume=bool(self.cfg.get("resume")),
            mode=self.cfg.monitor.mode,
            seed=self.cfg.seed,
            random_trials=self._random_trials,
        ) as study:
            num_finished = len(finished(study))
            console.print(f"study        {study.study_name}", soft_wrap=True, markup=False)
            if num_finished:
                num_left = max(0, self._num_trials - num_finished)
                console.print(f"             {num_finished} trials are finished; {num_left} to go")
            with self.parent(study.study_name) as parent:
                try:
                    results = self._search(study, space, batch, parent)
                except KeyboardInterrupt:
                    done = f"{len(finished(study))} trials are finished; the same command with resume=true continues"
                    console.print(f"{done} study {study.study_name}", soft_wrap=True, markup=False)
                    raise
                self._report(study, space, parent)
        return results

    def _make_space(self, arguments: Sequence[str]) -> Space:
        # val/loss cannot compare settings of the loss: each defines another val/loss
        excluded = "loss." if self.cfg.monitor.metric == "val/loss" else ()
        usual = self.parsed([f"{key}={text}" for key, text in self._space.items() if not key.startswith(excluded)])
        fixed = [str(o.input_line) for o in self.parsed(arguments) if not o.is_sweep_override()]
        assert self.hydra_context is not None
        compose, choices = self.hydra_context.config_loader.load_configuration, self.cfg.hydra.runtime.choices

        @cache
        def composed(*words: str) -> DictConfig | None:
            try:
                return (
                    compose(self.cfg.hydra.job.config_name, [*fixed, *words], RunMode.MULTIRUN) if words else self.cfg
                )
            except ConfigCompositionException:  # they contradict each other
                return None

        def settled(key: str, chosen: Mapping[str, str]) -> str | None:
            config = composed(*sorted(f"{group}={choice}" for group, choice in chosen.items() if group in choices))
            if config is None:
                return None
            value = config.hydra.runtime.choices.get(key, OmegaConf.select(config, key))
            return None if value is None else str(value)

        return Space(given=self.parsed(arguments), usual=usual, unused=self._unused, settled=settled)

    def _search(self, study: "Study", space: Space, batch: int, parent: str | None) -> list[JobReturn]:
        results: list[JobReturn] = []
        while (left := self._num_trials - len(finished(study))) > 0:
            trials = [study.ask() for _ in range(min(batch, left))]
            jobs = [[*space.words(trial), self._trial_word(study, trial.number)] for trial in trials]
            results += self.launch(jobs, trials[0].number, parent, [dimension.name for dimension in space.dimensions])
            for trial, result in zip(trials, results[-len(trials) :], strict=True):
                value, why = outcome(result)
                self._print_trial(study, record_result(study, trial, value=value, why=why))
            failed = finished(study)
            if len(failed) >= _MAX_FAILED and all(WHY in trial.user_attrs for trial in failed):
                raise InputError(f"the first {len(failed)} trials all failed: {failed[0].user_attrs[WHY]}")
        return results

    def _trial_word(self, study: "Study", number: int) -> str:
        """The override with which a job reports to the study and can be pruned."""
        texts = {"storage": self._storage, "study": study.study_name}
        words = [f"{name}: {quoted(text)}" for name, text in texts.items()]
        words += [f"{name}: {value}" for name, value in {"number": number, **self._pruning}.items()]
        return f"trial={{{', '.join(words)}}}"

    def _print_trial(self, study: "Study", trial: "FrozenTrial") -> None:
        if WHY in trial.user_attrs:
            outcome = f"failed: {trial.user_attrs[WHY]}"
        elif PRUNED in trial.user_attrs:
            outcome = f"pruned in epoch {trial.user_attrs[PRUNED]}"
        else:
            outcome = f"{self.cfg.monitor.metric} {trial.value:.4f}"
        if best := best_so_far(study):
            outcome += f"; best {best.value:.4f} in trial {best.number}"
        done = len(finished(study))
        console.print(f"trial {trial.number} ({done}/{self._num_trials}): {outcome}", soft_wrap=True, markup=False)

    def _report(self, study: "Study", space: Space, parent: str | None) -> None:
        """Print the result, and write its table and its picture.

        Raises:
            InputError: no trial was completed.
        """
        table = write_table(study, self.folder / "search.csv")
        pictures = draw(study, self.folder, self.cfg.monitor.metric)
        if parent:
            from segue.runs.tracking.store import add_to_run

            add_to_run(self.cfg.logger.tracking_uri, parent, files=[table, *pictures])
        trials = finished(study)
        failed = [trial.user_attrs[WHY] for trial in trials if WHY in trial.user_attrs]
        if (best := best_so_far(study)) is None:
            raise InputError(
                f"no trial was completed: {len(failed)} of {len(trials)} failed, the others were pruned; "
                "a larger search.prune_after_epochs prunes later"
            )
        pruned = sum(PRUNED in trial.user_attrs for trial in trials)
        lines = {
            "trials": f"{len(trials)}: {len(trials) - pruned - len(failed)} complete, {pruned} pruned, "
            f"{len(failed)} failed" + (f" (the first: {failed[0]})" if failed else ""),
            "best": f"{self.cfg.monitor.metric} {best.value:.4f} in trial {best.number}",
            "study": f"{study.study_name} in {self._storage}",
            "pictures": f"{self.folder}/search_*.png, as a table {table}",
        }
        if parent:
            lines["compare"] = f"{call_of('compare')} parent={parent}"
        words = [word for word in space.command(best.params) if not word.startswith("resume=")]
        lines["next"] = f"{call_of('train')} {shlex.join(words)}"
        for name, text in lines.items():
            console.print(f"{name:<12} {text}", soft_wrap=True, markup=False)


def _num_parallel(launcher: DictConfig) -> int:
    """How many jobs a launcher runs at once.

    Raises:
        InputError: it is not known for this launcher.
    """
    if (kind := str(launcher._target_).rpartition(".")[2]) == "JoblibLauncher":
        from joblib import effective_n_jobs

        return int(effective_n_jobs(launcher.n_jobs))
    if kind != "BasicLauncher":
        raise InputError(
            f"search.batch=null: {kind} does not report how many jobs it runs at once; set a number, such as "
            "search.batch=4"
        )
    return 1


def open_storage(url: str) -> "BaseStorage":
    """Open the database of studies.

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

    Raises:
        InputError: the study cannot be opened, or is in use by another process.
    """
    import numpy as np
    import optuna

    digest = hashlib.sha256(json.dumps(setup, sort_keys=True).encode()).hexdigest()[:8]
    with _lock(url, "storage", wait=True):
        storage = open_storage(url)
        same = [one.study_name for one in storage.get_all_studies() if one.user_attrs.get(DIGEST) == digest]
        # their names end in the date
        name = max(same) if resume and same else f"search {digest} {dt.datetime.now():%Y-%m-%d %H:%M:%S.%f}"
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize" if mode == "max" else "minimize", load_if_exists=True
        )
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
    path = file.parent / f".{file.name}.{mark}.lock"
    in_use = f"study {what!r} is in use by another process; wait for it, or leave out resume=true"
    with ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # a process that waits for a lock must not lose its file
            stack.enter_context(FileLock(path) if wait else locked(path, in_use))
        except OSError as error:
            raise _unusable(url, error) from error
        yield


def finished(study: "Study") -> list["FrozenTrial"]:
    """Finished trials: complete, pruned, or failed with an error.

    Returns:
        The trials; those lost with their process are left out.
    """
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    return [trial for trial in ended if trial.state.name != "FAIL" or WHY in trial.user_attrs]


def record_result(study: "Study", trial: "Trial", *, value: Any, why: str | None = None) -> "FrozenTrial":
    """Record the result of a trial. The process that ran the trial has recorded whether it was pruned.

    Args:
        trial: a trial of this study.
        value: what the trial returned, its value of the objective.
        why: why it failed; None if it did not fail.
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
    """Write `search.csv`: number, state, value, epoch of pruning, parameters and error of each finished trial."""
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

    Returns:
        The files, `search_<name>.png` of each picture. The importance of parameters (fANOVA) is left out where there
            are too few trials for it.
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
