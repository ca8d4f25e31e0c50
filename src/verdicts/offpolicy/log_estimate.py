"""How much listeners would play of a run's recommendations, estimated from its test logs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from segue.errors import InputError
from segue.reports.numbers import interval
from segue.verdicts.offpolicy.behaviours import LogFolder
from segue.verdicts.offpolicy.candidate import Candidate
from segue.verdicts.offpolicy.decisions import read_decisions
from segue.verdicts.offpolicy.estimate_report import FEW, MANY_LEFT_OUT
from segue.verdicts.offpolicy.estimates import EstimateSettings, OffPolicy, OffPolicyLog


class OffPolicyEstimates:
    """Estimates the recommendations from the sessions that start after all those of training and validation.

    Args:
        split: how the sessions were divided; only `time` says which sessions the model has not seen.
        session_gap_minutes: longest pause in a session, in minutes, as in the pairs.
        pick: how a track is picked from its list.
        artist_gap: number of previous tracks whose artists are avoided.
        settings: when an estimate is made, and how.

    Raises:
        InputError: `pick` or `artist_gap` is out of range.
    """

    def __init__(
        self, *, split: str, session_gap_minutes: int | float, pick: str, artist_gap: int, settings: EstimateSettings
    ) -> None:
        how: dict[str, Any] = {"pick": pick, "artist_gap": artist_gap, "where": "callbacks.off_policy."}
        self._candidate = partial(Candidate, name="lists", **how)
        self._candidate()  # refuses a setting out of range before the run
        self._split, self._gap_minutes, self._settings = split, session_gap_minutes, settings

    def __call__(
        self, source: Path, recommendations: Path, *, is_session: bool, seen_until_ms: Callable[[], int]
    ) -> tuple[dict[str, float], str] | None:
        """Estimate.

        Args:
            source: the source of the run.
            recommendations: the file of lists.
            is_session: whether the session is the query of the run.
            seen_until_ms: latest start of a session that is not in the test set, in milliseconds since 1970.

        Returns:
            The metrics `offline/…`, and one line for people. None for a source without event logs.

        Raises:
            InputError: there is no estimate, and why.
        """
        if not has_event_log(source):
            return None
        if is_session:
            raise InputError(
                "context=session is not estimated from a log; play such runs with abtest.py control= treatment="
            )
        if self._split not in ("time", "auto"):  # auto: time, because events have timestamps
            raise InputError(
                f"datamodule.split={self._split} does not say which sessions the model has not seen; use split=time"
            )
        folder = LogFolder.open(_logs_of(source), source / "tracks.json")
        # the datamodule has refused logs with too many lines that are not events
        sessions = read_decisions(folder.logs, folder.catalog, max_rejected=1.0, session_gap_minutes=self._gap_minutes)
        is_test = sessions.started_ms > seen_until_ms()
        if not is_test.any():
            raise InputError(
                f"logs={folder.logs}: none of the {len(sessions):,} sessions that an estimate can use is in the test "
                "set, the latest tenth of all; write the latest logs with propensities"
            )
        earlier, later = sessions.where(~is_test), sessions.where(is_test)
        candidate = folder.candidate(self._candidate(file=recommendations))
        found = OffPolicyLog(later, folder, earlier).estimate(candidate, self._settings)
        return found.metrics(), summary(found)


def has_event_log(path: Path) -> bool:
    """Whether a source has a log in the format of the service.

    Args:
        path: of the source; anything but a folder with `data.json*` in it or in its `logs` has none.
    """
    return path.is_dir() and any(file.is_file() for file in _logs_of(path).rglob("data.json*"))


def _logs_of(source: Path) -> Path:
    return source / "logs" if (source / "logs").is_dir() else source


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
