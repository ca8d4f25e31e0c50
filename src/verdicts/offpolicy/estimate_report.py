"""The report of an off-policy estimate: rows of a table, `estimate.md` and `estimate.json`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segue.reports.markdown import bullets
from segue.reports.numbers import interval, number
from segue.reports.result_table import Table
from segue.reports.writing import write_report
from segue.statistics.intervals import LEVEL, MeanInterval
from segue.verdicts.offpolicy.decisions import left_out_text
from segue.verdicts.offpolicy.estimates import OffPolicy, OffPolicyLog
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
    robust, snips, session = found.first_step_dr, found.first_step_snips, found.session_snips
    of_session = ("–", "–") if session is None else _cells(session.value, session, ".2f")
    rows: list[Sequence[str]] = [
        (candidate, "robust", *_cells(robust.value, robust, ".3f"), "–", "–"),
        (candidate, "SNIPS", *_cells(snips.value, snips, ".3f"), *of_session),
    ]
    sessions = log.decisions
    spans = zip(sessions.first.tolist(), (sessions.first + sessions.lengths).tolist(), strict=True)
    time = np.array([float(sessions.shares[start:end].sum()) for start, end in spans])
    used = np.unique(sessions.setting).tolist()
    names = arm_names([sessions.settings[setting] for setting in used])
    for setting, name in zip(used, names, strict=True):
        chosen = sessions.setting == setting
        first = MeanInterval.of_clusters(sessions.shares[sessions.first[chosen] + 1], sessions.users[chosen], LEVEL)
        whole = MeanInterval.of_clusters(time[chosen], sessions.users[chosen], LEVEL)
        rows.append((name, "as logged", *_cells(first.mean, first, ".3f"), *_cells(whole.mean, whole, ".2f")))
    columns = ["name", "how", "first step", "interval", "session", "interval"]
    return Table(title="Estimates from the log", columns=columns, rows=rows, align="llRRRR")


def _cells(value: float, bounds: Estimate | MeanInterval, form: str) -> tuple[str, str]:
    return number(value, form), interval(bounds.lower, bounds.upper, form)


def arm_names(settings: Sequence[tuple[str, str]]) -> list[str]:
    """Arms for people: `C`, or `C of TEST (release 1a2b3c)` where experiments and releases differ.

    Args:
        settings: text of `experiments` and of `release` of the lines of each arm.
    """
    texts, releases = zip(*settings, strict=True) if settings else ((), ())
    arms = [_arms(text) for text in texts]
    is_one_experiment, is_one_release = len({tuple(given) for given in arms}) <= 1, len(set(releases)) <= 1
    return [
        ", ".join(arm if is_one_experiment else f"{arm} of {experiment}" for experiment, arm in given.items())
        + ("" if is_one_release else f" (release {release})")
        for given, release in zip(arms, releases, strict=True)
    ]


def _arms(text: str) -> dict[str, str]:
    try:
        return {str(experiment): str(arm) for experiment, arm in json.loads(text).items()}
    except (ValueError, AttributeError):
        return {"": text}


def remarks(found: OffPolicy) -> list[str]:
    """What a reader must know about the estimates, one sentence each.

    Args:
        found: the estimates.
    """
    lines = [
        f"{found.num_sessions:,} sessions of the log are worth {found.first_step_snips.effective_sample_size:,.0f} of "
        "the candidate (effective sample size at the first step).",
        f"Share of the candidate's first picks that no arm could have made: {found.share_without_support:.2%}.",
        "robust: doubly robust. first step: mean share played of the first recommended track. session: mean time per "
        "session, by per-decision weights. Intervals have level 95 %.",
        "A candidate that was trained on these sessions looks better than it is; use logs that it has not seen.",
    ]
    if found.first_step_snips.effective_sample_size < FEW:
        lines.append(
            f"With an effective sample size below {FEW}, fewer than 95 % of the intervals hold the truth, and some "
            "miss it by several times their width. Use more sessions before you rely on this estimate."
        )
    if found.session_snips is None:
        lines.append(
            "The session is not estimated, because the log has too few sessions like those of the candidate (mean "
            f"weight at the end {found.session_mean_weight:.2f}, expected 1)."
        )
    if not found.is_mixture:
        lines.append(
            "The recommenders of the arms are not known; the weights use the propensities of the log alone and assume "
            "that every arm can recommend every track."
        )
    if found.arms_left_out:
        arms = ", ".join(dict.fromkeys(arm_names([(text, "") for text in found.arms_left_out])))
        lines.append(f"Left out, because their recommender is not known: {arms}.")
    if found.different:
        lines.append(f"Left out, because a propensity is not that of its release: {found.different:,} sessions.")
    if text := left_out_text(found.left_out):
        lines.append(f"Left out: {text}.")
    if found.share_left_out > MANY_LEFT_OUT:
        lines.append(
            f"{found.share_left_out:.1%} of the {found.num_read:,} sessions of the log are left out. If they differ "
            "from the others, for example because long sessions are left out more often, the estimates are biased."
        )
    if found.lines_rejected:
        lines.append(f"Left out: {found.lines_rejected:,} lines that are not events.")
    return lines


def write_estimate(found: OffPolicy, table: Table, folder: Path, candidate: Any, provenance: Mapping[str, str]) -> None:
    """Write `estimate.md` and `estimate.json`.

    Args:
        found: the estimates.
        table: the same as a table.
        folder: the run folder.
        candidate: the recommender as it was given.
        provenance: command, commit and versions, by name.
    """
    blocks = ["# Estimate of a recommender that never ran", table.markdown(), bullets(remarks(found))]
    record = {"candidate": candidate, **found.metrics(), **found.record()}
    write_report(folder, "estimate", record, provenance, blocks=blocks)
