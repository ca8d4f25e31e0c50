"""A search for the best settings, as a multirun: `python train.py -m search=optuna`."""

import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from segue.errors import InputError
from segue.settings import Setting, settings
from segue.sweeps.jobs import Sweep, outcome
from segue.sweeps.search_space import Space
from segue.sweeps.search_study import (
    PRUNED,
    WHY,
    best_so_far,
    draw,
    finished,
    open_study,
    record_result,
    write_table,
)
from segue.terminal.console import console

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_ABSENT = object()
_MAX_FAILED = 6
"""A search stops if its first six trials all fail. If half of the space fails, this happens in 1 search of 64."""
_NOT_IN_SETUP = ("resume=", "run_name=", "logger", "trainer.accelerator=")
"""Overrides in which comparable trials may differ."""


@settings("search")
class Search(Sweep):
    """Asks Optuna for trials, runs them with the launcher, and reports the results to Optuna, in batches.

    A trial is a job; its value is what the verb returns, the best value of `monitor.metric`. The study is kept in a
    file, therefore `resume=true` can continue a stopped search.

    Raises:
        InputError: a setting is out of range.
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

        Args:
            arguments: overrides of the command line.

        Returns:
            Results of the trials that this call ran.

        Raises:
            InputError: a key cannot be searched, a setting is out of range, the study cannot be used, the first
                trials all fail, or no trial was completed.
        """
        with console.status("composing the search space"):
            space = self._make_space(arguments)
        for dimension in space.dimensions:
            if self.cfg.monitor.metric == "val/loss" and dimension.name.partition(".")[0] == "loss":
                raise InputError(
                    f"{dimension.name} is searched with monitor.metric=val/loss, but values of different losses cannot "
                    "be compared; add monitor.metric=val/ndcg_at_10 monitor.mode=max"
                )
        self.validate_batch_is_legal([space.example()])
        batch = self._batch or _num_parallel(self.cfg.hydra.launcher)
        setup = {**space.describe(), "monitor": [str(self.cfg.monitor.metric), str(self.cfg.monitor.mode)]}
        setup["fixed"] = [word for word in setup["fixed"] if not word.startswith(_NOT_IN_SETUP)]
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
            value = config.hydra.runtime.choices.get(key, OmegaConf.select(config, key, default=_ABSENT))
            return None if value is _ABSENT else str(value)

        return Space(given=self.parsed(arguments), usual=usual, unused=self._unused, settled=settled)

    def _search(self, study: "Study", space: Space, batch: int, parent: str | None) -> list[JobReturn]:
        results: list[JobReturn] = []
        while (left := self._num_trials - len(finished(study))) > 0:
            trials = [study.ask() for _ in range(min(batch, left))]
            jobs = [[*space.suggest(trial), self._trial_word(study, trial.number)] for trial in trials]
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
        words = [f"{name}: {QuotedString(text, Quote.single).with_quotes()}" for name, text in texts.items()]
        words += [f"{name}: {value}" for name, value in {"number": number, **self._pruning}.items()]
        return f"trial={{{', '.join(words)}}}"

    def _print_trial(self, study: "Study", trial: "FrozenTrial") -> None:
        """Print a line for a finished trial."""
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
        table, pictures = (
            write_table(study, self.folder / "search.csv"),
            draw(study, self.folder, self.cfg.monitor.metric),
        )
        if parent:
            from segue.tracking.store import add_to_run

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
            lines["compare"] = f"python compare.py parent={parent}"
        words = [word for word in space.command(best.params) if not word.startswith("resume=")]
        lines["next"] = shlex.join(["python", "train.py", *words])
        for name, text in lines.items():
            console.print(f"{name:<12} {text}", soft_wrap=True, markup=False)


def _num_parallel(launcher: DictConfig) -> int:
    """How many jobs a launcher runs at once.

    Raises:
        InputError: it is not known for this launcher.
    """
    kind = str(launcher._target_).rpartition(".")[2]
    if kind == "BasicLauncher":
        return 1
    if kind == "JoblibLauncher":
        from joblib import effective_n_jobs

        return int(effective_n_jobs(launcher.n_jobs))
    raise InputError(
        f"search.batch=null: {kind} does not report how many jobs it runs at once; set a number, such as search.batch=4"
    )
