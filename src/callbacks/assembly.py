"""The callbacks of one run: those that conf chose, and what follows the test, in its order."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from segue.atomic import write_record
from segue.callbacks.lineage import Lineage
from segue.callbacks.listening_test import Listening
from segue.callbacks.pictures import Pictures
from segue.callbacks.ranking_metrics import check_monitor
from segue.callbacks.run_context import RunContext, ranker_of
from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.models.export import OF_EVALUATED, Export, Exported
from segue.models.ranker import Ranker
from segue.reports.console import console
from segue.reports.progress import progress
from segue.reports.result_table import Table
from segue.reports.tables import examples_table
from segue.runs.folder import REFIT
from segue.runs.profiles import FILE as PROFILES
from segue.runs.session_vectors import FILE
from segue.runs.tracking.store import EVALUATED, REFITTED
from segue.statistics.online import VAL_TIME


@dataclass(frozen=True, eq=False, kw_only=True)
class Refitted:
    """A model that was trained again on all sessions. It is exported and played, and no metric of a log sees it.

    Args:
        data: what it learned from: all of it is training data.
    """

    module: LightningModule
    data: PairDataModule
    num_epochs: int

    def record(self) -> dict[str, Any]:
        """What it has learned, for `refit.json`: `epochs`, `sessions`, `pairs`, and `until`, its last play in UTC."""
        num_sessions, num_pairs = len(self.data.sessions), len(self.data.pairs["train"])
        until = None if (span := self.data.data.span()) is None else span[1]
        return {"epochs": self.num_epochs, "sessions": num_sessions, "pairs": num_pairs, "until": until}


class AfterTest(Callback):
    """Recommendations, listening test, pictures, MLflow: each step gets what earlier ones made.

    It is a callback because Lightning keeps the weights under test on their device, and the module in evaluation mode,
    only until the test has ended, and marks the run as failed in MLflow if a step fails.

    Args:
        export: writes the recommendations. This and the following are None where they are left out.
        listening: plays the recommendations to simulated listeners.

    What is exported and played is the refitted model, if there is one.

    Attributes:
        refitted: set before the test; None where the tested model is exported.
        exported: what was written; None without `export`.
        examples: some tracks and their best recommendations, for people; None without `export`.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        export: Export | None,
        listening: Listening | None,
        plots: Pictures | None,
        lineage: Lineage | None,
    ) -> None:
        self._context, self._export = context, export
        self._listening, self._plots, self._lineage = listening, plots, lineage
        self.refitted: Refitted | None = None
        self.exported: Exported | None = None
        self.examples: Table | None = None

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the steps."""
        data, history, evaluated = self._context.datamodule, self._context.history, ranker_of(pl_module)
        ranker, pictures = evaluated, list[Path]()
        if self.refitted is not None:
            ranker = ranker_of(self.refitted.module.to(pl_module.device).eval())
        of_evaluated: Exported | None = None
        if self._export is not None:
            self.exported, of_evaluated = self._write_lists(self._export, evaluated)
            self._keep(trainer, self.exported.metrics)
            if self.exported.note is not None:
                console.print(self.exported.note, soft_wrap=True)
            history.clock.end("lists")
        if self._listening is not None and self._listening.test is not None:
            self._keep(trainer, self._listening.play(ranker, self.exported), epoch=len(history.epochs))
            history.clock.end("listening")
        if self._plots is not None:
            pictures = self._plots.draw(evaluated, pl_module.device, data, history.epochs)
            history.clock.end("pictures")
        if self._lineage is not None:
            given = {EVALUATED: of_evaluated, REFITTED: self.exported if self.refitted is not None else None}
            models = {kind: one.path for kind, one in given.items() if one is not None}
            self._lineage.log_results(trainer, models, pictures)

    def _write_lists(self, export: Export, evaluated: Ranker) -> tuple[Exported, Exported | None]:
        """Write the lists of the model that is exported, and those of the model that was tested, if it is another.

        Returns:
            What was exported, and the same of the tested model; None where it is not written.
        """
        refitted, path = self.refitted, export.path
        data, tested = self._context.datamodule if refitted is None else refitted.data, None
        for name in (path.name, FILE, PROFILES):  # lists come last: a folder without them is no run
            path.with_name(name).unlink(missing_ok=True)
        if path.with_name(REFIT).exists():  # a run that is resumed may export another model than before
            shutil.rmtree(path.with_name(OF_EVALUATED), ignore_errors=True)
            path.with_name(REFIT).unlink()
        if refitted is not None:
            with progress("exporting the evaluated model", len(data.catalog)) as advance:
                known = self._context.datamodule.vocabulary
                tested = export.write(evaluated, known, advance, into=path.with_name(OF_EVALUATED))
            write_record(refitted.record(), path.with_name(REFIT))
        ranker = evaluated if refitted is None else ranker_of(refitted.module)
        profiles = None if ranker.listener is None else data.profiles()
        if ranker.listener is not None and profiles is None:
            console.print("profiles     none: shards have no ids of listeners", soft_wrap=True, markup=False)
        if profiles is not None:
            profiles.write(path.with_name(PROFILES))
        with progress("exporting recommendations", len(data.catalog)) as advance:
            exported = export.write(ranker, data.vocabulary, advance)
        self.examples = examples_table(data.vocabulary, exported.rows.__getitem__)
        return exported, exported if refitted is None else tested

    def _keep(self, trainer: Trainer, metrics: Mapping[str, float], **more: int) -> None:
        """Add metrics to the history and to MLflow, at the step of the last values there: of the best epoch."""
        self._context.history.test.update(metrics)
        for logger in trainer.loggers if metrics else []:
            logger.log_metrics({**metrics, **more})


def build_callbacks(
    chosen: Mapping[str, Any], context: RunContext, *, monitor: str
) -> tuple[list[Callback], AfterTest]:
    """All callbacks. Their order has no meaning, except that the first keeps what others read.

    Args:
        chosen: those of `conf/callbacks`, by name: a callback, what makes one from the context of the run, a step after
            the test, or None where it is left out.
        monitor: the metric that decides between epochs.

    Returns:
        The callbacks, and the one of them that has the results after the test.

    Raises:
        InputError: a callback is out of its range, or nothing computes `monitor`.
    """
    check_monitor(monitor, context.datamodule, is_ranked=chosen.get("ranking") is not None)
    made: dict[str, Any] = {
        name: choice if isinstance(choice, Callback) else choice(context)
        for name, choice in chosen.items()
        if choice is not None and name not in ("export", "plots")  # steps of `AfterTest` alone
    }
    listening = made.get("listening")
    if monitor == VAL_TIME and not (isinstance(listening, Listening) and listening.test is not None):
        raise InputError(
            f"monitor.metric={monitor} cannot be computed: it needs callbacks.listening, and logs of a simulated world "
            "(datamodule=simulated); use monitor.metric=val/loss monitor.mode=min"
        )
    export = chosen.get("export")
    after_test = AfterTest(
        context,
        export=None if export is None else export(len(context.datamodule.catalog)),
        plots=chosen.get("plots"),
        **{name: made.get(name) for name in ("listening", "lineage")},
    )
    return [context.history, *made.values(), after_test], after_test
