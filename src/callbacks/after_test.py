"""After the test: what a run makes of the weights under test."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from segue.callbacks.lineage import Lineage
from segue.callbacks.listening_test import Listening
from segue.callbacks.pictures import Pictures
from segue.callbacks.ranking_metrics import RankingMetrics
from segue.callbacks.run_context import RunContext, ranker_of
from segue.errors import InputError
from segue.models.export import Export, Exported
from segue.reports.training_tables import ExampleTrack, example_tracks
from segue.runs.phases import PhaseClock
from segue.terminal.console import console
from segue.terminal.progress import progress

LogEstimate = Callable[..., tuple[Mapping[str, float], str] | None]
"""`OffPolicyEstimates` of `offpolicy/log_estimate.py`."""


class AfterTest(Callback):
    """Recommendations, listening test, off-policy estimate, pictures, MLflow: each step gets what earlier ones made.

    It is a callback because Lightning keeps the weights under test on their device, and the module in evaluation mode,
    only until the test has ended, and marks the run as failed in MLflow if a step fails.

    Args:
        context: of the run.
        clock: counts the time of each step.
        export: writes the recommendations. This and the following are None where they are left out.
        ranking: has the ranks of the test queries.
        listening: plays the recommendations to simulated listeners.
        off_policy: estimates them from the test logs.
        plots: draws.
        lineage: logs the files to MLflow.

    Attributes:
        exported: what was written; None without `export`.
        examples: some tracks and their best recommendations, for people.
    """

    def __init__(
        self,
        context: RunContext,
        clock: PhaseClock,
        *,
        export: Export | None,
        ranking: RankingMetrics | None,
        listening: Listening | None,
        off_policy: LogEstimate | None,
        plots: Pictures | None,
        lineage: Lineage | None,
    ) -> None:
        self._context, self._clock, self._export, self._ranking = context, clock, export, ranking
        self._listening, self._off_policy, self._plots, self._lineage = listening, off_policy, plots, lineage
        self.exported: Exported | None = None
        self.examples: Sequence[ExampleTrack] = ()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the steps."""
        data, history, ranker = self._context.datamodule, self._context.history, ranker_of(pl_module)
        pictures: list[Path] = []
        if self._export is not None:
            with progress("exporting recommendations", len(data.catalog)) as advance:
                self.exported = self._export.write(ranker, data.vocabulary, advance)
            lists = self.exported.parts
            self.examples = example_tracks(data.vocabulary, lambda rows: lists.of(rows)[0])
            self._keep(trainer, self.exported.metrics)
            if self.exported.note is not None:
                console.print(self.exported.note, soft_wrap=True)
            self._clock.end("lists")
        if self._listening is not None and self._listening.has_world:
            metrics = self._listening.play(ranker, self.exported)
            self._keep(trainer, metrics, epoch=len(history.epochs))
            self._clock.end("listening")
        if self._off_policy is not None and self.exported is not None:
            vectors, source = self.exported.vectors, Path(data.path)
            is_session = vectors is not None and vectors.context == "session"
            try:
                estimated = self._off_policy(
                    source, self.exported.path, is_session=is_session, seen_until_ms=lambda: data.seen_until_ms
                )
            except InputError as error:
                estimated = {}, f"not estimated: {error}"
            if estimated is not None:
                self._keep(trainer, estimated[0])
                console.print(f"off-policy   {estimated[1]}", soft_wrap=True, markup=False)
                self._clock.end("estimates")
        if self._plots is not None:
            queries = None if self._ranking is None else self._ranking.ranked
            pictures = self._plots.draw(ranker, pl_module.device, data, history.epochs, queries)
            self._clock.end("pictures")
        if self._lineage is not None:
            self._lineage.log_results(trainer, None if self.exported is None else self.exported.path, pictures)
        if self.exported is not None:
            self.exported.parts.remove()

    def _keep(self, trainer: Trainer, metrics: Mapping[str, float], **more: int) -> None:
        """Add metrics to the history and to MLflow, at the step of the last values there: of the best epoch."""
        self._context.history.test.update(metrics)
        for logger in trainer.loggers if metrics else []:
            logger.log_metrics({**metrics, **more})
