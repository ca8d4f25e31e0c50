"""The report of an off-policy estimate: `estimate.md` and `estimate.json`, or one line at the end of a training run.

S sessions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from segue.errors import InputError
from segue.reports.markdown import bullets
from segue.reports.numbers import interval, number
from segue.reports.result_table import Table
from segue.reports.writing import write_report
from segue.statistics.intervals import LEVEL, MeanInterval
from segue.verdicts.abtest.events import json_object
from segue.verdicts.abtest.known_before import NOTES
from segue.verdicts.offpolicy.behaviours import Candidate, LogFolder
from segue.verdicts.offpolicy.decisions import left_out_text, read_decisions
from segue.verdicts.offpolicy.estimates import EstimateSettings, OffPolicy, OffPolicyLog
from segue.verdicts.offpolicy.estimators import Estimate

FEW = 30
"""Effective sample size below which intervals held the truth in 91 to 94 % of logs (experiments/off_policy)."""

MANY_LEFT_OUT = 0.01
"""Share of the sessions of a log; if more are left out, the reader is warned."""


def estimate_table(found: OffPolicy, log: OffPolicyLog, candidate: str) -> Table:
    """The candidate, and the arms of the log as they were.

    Args:
        found: the estimates.
        log: the log that they are from.
        candidate: name of the candidate.
    """
    snips, session, none = _cells(found.first_step_snips, ".3f"), found.session_snips, ("–", "–")
    rows: list[Sequence[str]] = [
        (candidate, "robust", *_cells(found.first_step_dr, ".3f"), *none),
        (candidate, "SNIPS", *snips, *(none if session is None else _cells(session, ".2f"))),
    ]
    sessions = log.decisions
    spans = zip(sessions.first.tolist(), sessions.lengths.tolist(), strict=True)
    time = np.array([float(sessions.shares[start : start + length].sum()) for start, length in spans])
    for name, own in _arms(log):
        first = MeanInterval.of_clusters(sessions.shares[sessions.first[own] + 1], sessions.users[own], LEVEL)
        whole = MeanInterval.of_clusters(time[own], sessions.users[own], LEVEL)
        rows.append((name, "as logged", *_cells(first, ".3f"), *_cells(whole, ".2f")))
    columns = ["name", "how", "first step", "interval", "session", "interval"]
    return Table(title="Estimates from the log", columns=columns, rows=rows, align="llRRRR")


def known_table(found: OffPolicy, log: OffPolicyLog, candidate: str) -> Table | None:
    """How much of what was recommended first its listeners knew before; None where no listener has an earlier session.

    Args:
        found: the estimates.
        log: the log that they are from.
        candidate: name of the candidate.
    """
    if not (names := list(found.first_step_known)):
        return None
    sessions = log.decisions
    logged = sessions.known(sessions.tracks[sessions.first + 1, None])
    logged_known = {name: one[:, 0].astype(np.float64) for name, one in logged.items()}
    shown = [(candidate, found.first_step_known)]  # an arm may have the name of the candidate
    shown += [(arm, means) for arm, own in _arms(log) if (means := log.means_of_known(logged_known, own))]
    return Table(
        title="Known before",
        columns=["metric", "name", "share", "interval"],
        rows=[[name.replace("_", " "), one, *_cells(means[name], ".3f")] for name in names for one, means in shown],
        align="llRR",
        notes=[
            "Share of the first recommended tracks, in sessions of listeners who have an earlier one.",
            *NOTES[1:],
        ],
    )


def _arms(log: OffPolicyLog) -> Iterator[tuple[str, Bool[np.ndarray, "S"]]]:
    """The name of each arm of a log, and which sessions are its own."""
    setting, settings = log.decisions.setting, log.decisions.settings
    used = np.unique(setting).tolist()
    for one, name in zip(used, arm_names([settings[one] for one in used]), strict=True):
        yield name, setting == one


def _cells(one: Estimate | MeanInterval, form: str) -> tuple[str, str]:
    return number(one.value if isinstance(one, Estimate) else one.mean, form), interval(one.lower, one.upper, form)


def arm_names(settings: Sequence[tuple[str, str]]) -> list[str]:
    """Arms for people: `C`, or `C of TEST (release 1a2b3c)` where experiments and releases differ.

    Args:
        settings: text of `experiments` and of `release` of the lines of each arm.
    """
    arms = [json_object(text) or {"": text} for text, _ in settings]
    is_one_experiment = len({tuple(given) for given in arms}) <= 1
    return [
        ", ".join(str(arm) if is_one_experiment else f"{arm} of {experiment}" for experiment, arm in given.items())
        + f" (release {release})" * (len({one for _, one in settings}) > 1)
        for given, (_, release) in zip(arms, settings, strict=True)
    ]


def remarks(found: OffPolicy) -> list[str]:
    """What a reader must know about the estimates, one sentence each."""
    effective = found.first_step_snips.effective_sample_size
    unknown = ", ".join(dict.fromkeys(arm_names([(text, "") for text in found.arms_left_out])))
    left_out = left_out_text(found.left_out)
    notes = {
        f"{found.num_sessions:,} sessions of the log are worth {effective:,.0f} of the candidate (effective sample "
        "size at the first step).": True,
        f"Share of the candidate's first picks that no arm could have made: {found.share_without_support:.2%}.": True,
        "robust: doubly robust. first step: mean share played of the first recommended track. session: mean time per "
        "session, by per-decision weights. Intervals have level 95 %.": True,
        "A candidate that was trained on these sessions looks better than it is; use logs that it has not seen.": True,
        f"With an effective sample size below {FEW}, fewer than 95 % of the intervals hold the truth, and some miss it "
        "by several times their width. Use more sessions before you rely on this estimate.": effective < FEW,
        "The session is not estimated, because the log has too few sessions like those of the candidate (mean weight "
        f"at the end {found.session_mean_weight:.2f}, expected 1).": found.session_snips is None,
        "The recommenders of the arms are not known; the weights use the propensities of the log alone and assume that "
        "every arm can recommend every track.": not found.is_mixture,
        f"Left out, because their recommender is not known: {unknown}.": unknown,
        f"Left out, because a propensity is not that of its release: {found.different:,} sessions.": found.different,
        f"Left out: {left_out}.": left_out,
        f"{found.share_left_out:.1%} of the {found.num_read:,} sessions of the log are left out. If they differ from "
        "the others, for example because long sessions are left out more often, the estimates are "
        "biased.": found.share_left_out > MANY_LEFT_OUT,
        f"Left out: {found.lines_rejected:,} lines that are not events.": found.lines_rejected,
    }
    return [note for note, is_said in notes.items() if is_said]


def write_estimate(
    found: OffPolicy, tables: Sequence[Table], folder: Path, candidate: Any, provenance: Mapping[str, str]
) -> None:
    """Write `estimate.md` and `estimate.json`.

    Args:
        found: the estimates.
        tables: the same as tables.
        folder: the run folder.
        candidate: the recommender as it was given.
        provenance: command, commit and versions, by name.
    """
    shown = [block for table in tables for block in (table.markdown(), bullets(table.notes)) if block]
    blocks = ["# Estimate of a recommender that never ran", *shown, bullets(remarks(found))]
    record = {"candidate": candidate, **found.metrics(), **asdict(found)}
    write_report(folder, "estimate", record, provenance, blocks=blocks)


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
        where = "callbacks.off_policy."
        self._candidate = partial(Candidate, name="lists", pick=pick, artist_gap=artist_gap, where=where)
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
        if not (source.is_dir() and any(file.is_file() for file in _logs_of(source).rglob("data.json*"))):
            return None
        if is_session:
            raise InputError(
                "a training run estimates its lists alone, and this one answers from the session; estimate it from "
                "logs that it has not seen, abtest.py logs=<folder> candidate=run:<id>"
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


def _logs_of(source: Path) -> Path:
    return source / "logs" if (source / "logs").is_dir() else source


def summary(found: OffPolicy) -> str:
    """The estimates in one line."""
    first, robust, session = found.first_step_snips, found.first_step_dr, found.session_snips
    of_session = (
        f"session not estimated, because its mean weight is {found.session_mean_weight:.2f}"
        if session is None
        else f"session {session.value:.2f} {interval(session.lower, session.upper, '.2f')}"
    )
    few = f", fewer than {FEW}: the intervals may be much too narrow" * (first.effective_sample_size < FEW)
    has_many = found.share_left_out > MANY_LEFT_OUT
    left_out = f"; {found.share_left_out:.1%} of the sessions of the log are left out" * has_many
    return (
        f"first step {robust.value:.3f} {interval(robust.lower, robust.upper, '.3f')} (doubly robust), "
        f"{first.value:.3f} {interval(first.lower, first.upper, '.3f')} (SNIPS); {of_session}; {found.num_sessions:,} "
        f"test sessions, worth {first.effective_sample_size:.0f}{few}{left_out}"
    )
