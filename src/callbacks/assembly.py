"""The callbacks of one run: those that conf chose, and those that are always there."""

from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning import Callback

from segue.callbacks.listening_test import Listening
from segue.callbacks.ranking_metrics import check_monitor
from segue.callbacks.recording import KeepHistory
from segue.callbacks.run_context import RunContext
from segue.errors import InputError
from segue.evaluation.online import VAL_TIME

Choice = Callback | Callable[[RunContext], Callback] | None
"""A callback, what makes one from the context of the run, or None where it is left out."""


def build_callbacks(
    chosen: Mapping[str, Choice], context: RunContext, *, monitor: str, trial: Mapping[str, Any] | None
) -> list[Callback]:
    """All callbacks, in the order in which they act.

    Args:
        chosen: those of `conf/callbacks`, by name.
        context: of the run.
        monitor: the metric that decides between epochs.
        trial: where the trial of a search is kept, if the run is one; see `Pruning`.

    Raises:
        InputError: a callback is out of its range, or nothing computes `monitor`.
    """
    check_monitor(monitor, context.datamodule, is_ranked=chosen.get("ranking") is not None)
    callbacks: list[Callback] = [KeepHistory(context.history, context.clock)]
    for choice in chosen.values():
        if choice is not None:
            callbacks.append(choice if isinstance(choice, Callback) else choice(context))
    if monitor == VAL_TIME and not any(isinstance(one, Listening) and one.has_world for one in callbacks):
        raise InputError(
            f"monitor.metric={monitor} cannot be computed: it needs callbacks.listening, and logs of a simulated world "
            "(datamodule=simulated); use monitor.metric=val/loss monitor.mode=min"
        )
    if trial:
        from segue.callbacks.pruning import Pruning

        pruning = Pruning(**trial, monitor=monitor)
        context.is_pruned = lambda: pruning.pruned
        callbacks.append(pruning)
    return callbacks
