"""After the test: how much listeners would play of the recommendations, estimated from the test logs."""

from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from segue.callbacks.run_context import RunContext
from segue.errors import InputError
from segue.offpolicy.behaviours import LogFolder
from segue.offpolicy.candidate import Candidate
from segue.offpolicy.decisions import read_decisions
from segue.offpolicy.estimate_report import FEW, MANY_LEFT_OUT
from segue.offpolicy.estimates import EstimateSettings, OffPolicy, OffPolicyLog
from segue.reports.numbers import interval
from segue.terminal.console import console


class OffPolicyEstimates(Callback):
    """Logs `offline/…` of the sessions that start after all those of training and validation.

    It prints one line: the estimates, or why there are none. Sources without event logs are passed over.

    Args:
        context: of the run; has the file of recommendations.
        split: how the sessions were divided; only `time` says which sessions the model has not seen.
        session_gap_minutes: longest pause in a session, in minutes, as in the pairs.
        pick: how a track is picked from its list.
        artist_gap: number of previous tracks whose artists are avoided.
        settings: when an estimate is made, and how.

    Raises:
        InputError: `pick` or `artist_gap` is out of range.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        split: str,
        session_gap_minutes: int | float,
        pick: str,
        artist_gap: int,
        settings: EstimateSettings,
    ) -> None:
        how: dict[str, Any] = {"pick": pick, "artist_gap": artist_gap, "where": "callbacks.off_policy."}
        self._candidate = partial(Candidate, name="lists", **how)
        self._candidate()  # refuses a setting out of range before the run
        self._context, self._split, self._gap_minutes = context, split, session_gap_minutes
        self._settings = settings

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Estimate, log and print."""
        if self._context.recommendations is None or not has_event_log(self._path):
            return
        try:
            found = self._estimate()
        except InputError as error:
            console.print(f"off-policy   not estimated: {error}", soft_wrap=True, markup=False)
        else:
            self._context.history.test.update(found.metrics())
            for logger in trainer.loggers:
                logger.log_metrics(found.metrics())
            console.print(f"off-policy   {summary(found)}", soft_wrap=True, markup=False)
        self._context.clock.end("estimates")

    @property
    def _path(self) -> Path:
        return Path(self._context.datamodule.path)

    def _estimate(self) -> OffPolicy:
        vectors = self._context.vectors
        if vectors is not None and vectors.context == "session":
            raise InputError(
                "context=session is not estimated from a log; play such runs with abtest.py control= treatment="
            )
        if self._split not in ("time", "auto"):  # auto: time, because events have timestamps
            raise InputError(
                f"datamodule.split={self._split} does not say which sessions the model has not seen; use split=time"
            )
        path = self._path
        folder = LogFolder.open(path / "logs" if (path / "logs").is_dir() else path, path / "tracks.json")
        # the datamodule has refused logs with too many lines that are not events
        sessions = read_decisions(folder.logs, folder.catalog, max_rejected=1.0, session_gap_minutes=self._gap_minutes)
        is_test = sessions.started_ms > self._context.datamodule.seen_until_ms
        if not is_test.any():
            raise InputError(
                f"logs={folder.logs}: none of the {len(sessions):,} sessions that an estimate can use is in the test "
                "set, the latest tenth of all; write the latest logs with propensities"
            )
        earlier, later = sessions.where(~is_test), sessions.where(is_test)
        candidate = folder.candidate(self._candidate(file=self._context.recommendations))
        return OffPolicyLog(later, folder, earlier).estimate(candidate, self._settings)


def has_event_log(path: Path) -> bool:
    """Whether a source has a log in the format of the service.

    Args:
        path: of the source; anything but a folder with `data.json*` in it or in its `logs` has none.
    """
    folder = path / "logs" if (path / "logs").is_dir() else path
    return path.is_dir() and any(file.is_file() for file in folder.rglob("data.json*"))


def summary(found: OffPolicy) -> str:
    """The estimates in one line.

    Args:
        found: the estimates.
    """
    first, robust, session = found.first_step_snips, found.first_step_dr, found.session_snips
    of_session = f"session not estimated, because its mean weight is {found.session_mean_weight:.2f}"
    if session is not None:
        of_session = f"session {session.value:.2f} {interval(session.lower, session.upper, '.2f')}"
    few = ""
    if first.effective_sample_size < FEW:
        few = f", fewer than {FEW}: the intervals may be much too narrow"
    left_out = ""
    if found.share_left_out > MANY_LEFT_OUT:
        left_out = f"; {found.share_left_out:.1%} of the sessions of the log are left out"
    return (
        f"first step {robust.value:.3f} {interval(robust.lower, robust.upper, '.3f')} (doubly robust), "
        f"{first.value:.3f} {interval(first.lower, first.upper, '.3f')} (SNIPS); "
        f"{of_session}; {found.num_sessions:,} test sessions, worth {first.effective_sample_size:.0f}{few}{left_out}"
    )
