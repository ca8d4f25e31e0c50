"""The callbacks of one run: those that conf chose, and what follows the test, in its order."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from segue.atomic import write_record
from segue.callbacks.lineage import Lineage
from segue.callbacks.listening_test import Listening
from segue.callbacks.pictures import Pictures
from segue.callbacks.ranking_metrics import check_monitor
from segue.callbacks.run_context import RunContext, ranker_of
from segue.datamodules.pair_datamodule import PairDataModule
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

    Attributes:
        refitted: set before the test; it is exported and played. None where the tested model is.
        exported: what was written; None without `export`.
        examples: some tracks and their best recommendations, for people; None without `export`.
    """

    refitted: Refitted | None = None
    exported: Exported | None = None
    examples: Table | None = None

    def __init__(
        self,
        context: RunContext,
        export: Export | None = None,
        listening: Listening | None = None,
        plots: Pictures | None = None,
        lineage: Lineage | None = None,
    ) -> None:
        self.context, self.export, self.listening, self.plots, self.lineage = context, export, listening, plots, lineage

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the steps."""
        history, served, written = self.context.history, ranker_of(pl_module), dict[str, Exported]()
        if self.refitted is not None:
            served = ranker_of(self.refitted.module.to(pl_module.device).eval())
        if self.export is not None:
            written = self._write_lists(self.export, ranker_of(pl_module), served)
            *_, self.exported = written.values()
            self._keep(trainer, self.exported.metrics)
            if self.exported.note is not None:
                console.print(self.exported.note, soft_wrap=True)
            history.clock.end("lists")
        if self.listening is not None and self.listening.test is not None:
            self._keep(trainer, self.listening.play(served, self.exported), epoch=len(history.epochs))
            history.clock.end("listening")
        if self.plots is not None:
            self.plots.draw(ranker_of(pl_module), pl_module.device, self.context.datamodule, history.epochs)
            history.clock.end("pictures")
        if self.lineage is not None:
            self.lineage.log_results(trainer, {kind: one.path for kind, one in written.items()})

    def _write_lists(self, export: Export, tested: Ranker, served: Ranker) -> dict[str, Exported]:
        """Write the lists of the model that is exported, and those of the model that was tested, if it is another.

        Returns:
            What was written, by what it is: EVALUATED, REFITTED. The last one is exported.
        """
        refitted, path, known = self.refitted, export.path, self.context.datamodule
        for name in (path.name, FILE, PROFILES):  # lists come last: a folder without them is no run
            path.with_name(name).unlink(missing_ok=True)
        if path.with_name(REFIT).exists():  # a run that is resumed may export another model than before
            shutil.rmtree(path.with_name(OF_EVALUATED), ignore_errors=True)
            path.with_name(REFIT).unlink()
        written = {}
        if refitted is not None:
            with progress("exporting the evaluated model", len(known.catalog)) as advance:
                into = path.with_name(OF_EVALUATED)
                written[EVALUATED] = export.write(tested, known.vocabulary, advance, into=into)
            write_record(refitted.record(), path.with_name(REFIT))
            known = refitted.data
        if served.listener is not None and (profiles := known.profiles()) is not None:  # shards have none
            profiles.write(path.with_name(PROFILES))
        with progress("exporting recommendations", len(known.catalog)) as advance:
            exported = export.write(served, known.vocabulary, advance)
        self.examples = examples_table(known.vocabulary, exported.rows.__getitem__)
        return {**written, EVALUATED if refitted is None else REFITTED: exported}

    def _keep(self, trainer: Trainer, metrics: Mapping[str, float], **more: int) -> None:
        """Add metrics to the history and to MLflow, at the step of the last values there: of the best epoch."""
        self.context.history.test.update(metrics)
        for logger in trainer.loggers if metrics else []:
            logger.log_metrics({**metrics, **more})


def build_callbacks(
    chosen: Mapping[str, Any], context: RunContext, *, monitor: str
) -> tuple[list[Callback], AfterTest]:
    """All callbacks. Their order has no meaning, except that the first keeps what others read.

    Lightning calls each before the same hook of the model.

    Args:
        chosen: those of `conf/callbacks`, by name: a callback, what makes one from the context of the run, a step after
            the test, or None where it is left out.
        monitor: the metric that decides between epochs.

    Returns:
        The callbacks, and the one of them that has the results after the test.

    Raises:
        InputError: a callback is out of its range, or nothing computes `monitor`.
    """
    given = {name: one for name, one in chosen.items() if one is not None}
    export, plots = given.pop("export", None), given.pop("plots", None)
    made: dict[str, Any] = {name: one if isinstance(one, Callback) else one(context) for name, one in given.items()}
    listening, lineage = made.get("listening"), made.get("lineage")
    is_played = listening is not None and listening.test is not None
    check_monitor(monitor, context.datamodule, is_ranked="ranking" in made, is_played=is_played)
    written = None if export is None else export(len(context.datamodule.catalog))
    after_test = AfterTest(context, written, listening, plots, lineage)
    return [context.history, *made.values(), after_test], after_test
