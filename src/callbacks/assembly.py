"""The callbacks of one run: those that conf chose, and those that are always there."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback

from segue.callbacks.after_test import AfterTest
from segue.callbacks.listening_test import Listening
from segue.callbacks.ranking_metrics import check_monitor
from segue.callbacks.recording import KeepHistory
from segue.callbacks.run_context import RunContext
from segue.errors import InputError
from segue.runs.phases import PhaseClock
from segue.statistics.online import VAL_TIME

_ONLY_AFTER_TEST = ("export", "off_policy", "plots")
"""Names of conf that are steps of `AfterTest` and no callbacks."""


def build_callbacks(
    chosen: Mapping[str, Any], context: RunContext, clock: PhaseClock, *, monitor: str
) -> tuple[list[Callback], AfterTest]:
    """All callbacks. Their order has no meaning, except that the first keeps what others read.

    Args:
        chosen: those of `conf/callbacks`, by name: a callback, what makes one from the context of the run, a step after
            the test, or None where it is left out.
        context: of the run.
        clock: counts the time of each phase.
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
        if choice is not None and name not in _ONLY_AFTER_TEST
    }
    listening = made.get("listening")
    if monitor == VAL_TIME and not (isinstance(listening, Listening) and listening.has_world):
        raise InputError(
            f"monitor.metric={monitor} cannot be computed: it needs callbacks.listening, and logs of a simulated world "
            "(datamodule=simulated); use monitor.metric=val/loss monitor.mode=min"
        )
    export = chosen.get("export")
    after_test = AfterTest(
        context,
        clock,
        export=None if export is None else export(len(context.datamodule.catalog)),
        off_policy=chosen.get("off_policy"),
        plots=chosen.get("plots"),
        **{name: made.get(name) for name in ("ranking", "listening", "lineage")},
    )
    return [KeepHistory(context.history, clock), *made.values(), after_test], after_test
