"""What an estimate says of a candidate: the mean share played of the first track that it would recommend.

S sessions.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from segue.errors import InputError
from segue.reports.numbers import interval, number
from segue.reports.result_table import Table
from segue.statistics.intervals import LEVEL, MeanInterval
from segue.verdicts.offpolicy.candidate import Candidate
from segue.verdicts.offpolicy.decisions import Decisions, left_out_text
from segue.verdicts.offpolicy.estimators import (
    Estimate,
    RewardModel,
    doubly_robust,
    effective_sample_size,
    scaled_by_arm,
    snips,
)

LEAST_EFFECTIVE = 10
"""Effective sample size below which an estimate is refused: its interval is too wide to be of use."""
FEW = 30
"""Effective sample size below which a reader is warned."""

_CHUNK = 256  # sessions whose choices are computed together


@dataclass(frozen=True, kw_only=True)
class OffPolicy:
    """The estimates of a candidate.

    Args:
        first_step_snips: mean share played of the first recommended track.
        first_step_dr: the same, doubly robust.
        share_without_support: share of the candidate's first picks that the arms could not have made.
        num_sessions: sessions that the estimates are from.
        arms: mean share played of the first recommended track of each arm of the log, by its name.
        arms_left_out: mean weight of the arms without support for the candidate.
        left_out: other sessions that were left out, by reason.
        num_read: sessions of the log, with those that were left out.
        lines_rejected: lines of the log that are not events.
    """

    first_step_snips: Estimate
    first_step_dr: Estimate
    share_without_support: float
    num_sessions: int
    arms: dict[str, MeanInterval]
    arms_left_out: dict[str, float]
    left_out: dict[str, int]
    num_read: int
    lines_rejected: int

    def metrics(self) -> dict[str, float]:
        """The numbers by their names."""
        found = {
            "num_sessions": float(self.num_sessions),
            "share_without_support": self.share_without_support,
            "first_step_effective_sample_size": self.first_step_snips.effective_sample_size,
        }
        for name, one in (("first_step_snips", self.first_step_snips), ("first_step_dr", self.first_step_dr)):
            found |= {name: one.value, f"{name}_lower": one.lower, f"{name}_upper": one.upper}
        return found

    def record(self) -> dict[str, Any]:
        """The estimates as plain values, for `estimate.json`; the names of the metrics begin with `offline/`."""
        return {f"offline/{name}": value for name, value in self.metrics().items()} | asdict(self)


def estimate(log: Decisions, candidate: Candidate, artist_of: Int[np.ndarray, "N"]) -> OffPolicy:
    """Estimate a candidate.

    Args:
        log: the decisions.
        candidate: how it recommends.
        artist_of: row of the artist of each track.

    Raises:
        InputError: no session can be used, no arm supports the candidate, or the sessions are worth too few of it.
    """
    if not len(log):
        raise InputError(f"none of {log.num_read} sessions of the log can be used: {left_out_text(log.left_out)}")
    weights, predicted, expected = _of_candidate(log, candidate, artist_of)
    arm, users, rewards = log.of("arm"), log.of("user_id"), log.of("time", 1)
    scaled, without_support = scaled_by_arm(weights, arm)
    kept = ~np.isin(arm, list(without_support))
    arms_left_out = {log.arms[one]: mean for one, mean in without_support.items()}
    if not kept.any():
        raise InputError(
            "no arm of the log could have made all picks of the candidate: the mean weight, which is 1 where an arm "
            f"could, is {_means(arms_left_out)}; an arm with random tracks supports every candidate"
        )
    effective = effective_sample_size(scaled[kept])
    if effective < LEAST_EFFECTIVE:
        raise InputError(
            f"{kept.sum():,} sessions of the log are worth {effective:.1f} of the candidate (effective sample size), "
            f"less than {LEAST_EFFECTIVE}; use more logs, or logs of a more similar recommender"
        )
    means = {one: MeanInterval.of_clusters(rewards[arm == one], users[arm == one], LEVEL) for one in np.unique(arm)}
    scaled, rewards, users = scaled[kept], rewards[kept], users[kept]
    return OffPolicy(
        first_step_snips=snips(scaled, rewards, users, LEVEL),
        first_step_dr=doubly_robust(scaled, rewards, predicted[kept], expected[kept], users, LEVEL),
        share_without_support=max(0.0, 1 - float(weights[kept].mean())),
        num_sessions=int(kept.sum()),
        arms={log.arms[one]: mean for one, mean in means.items()},
        arms_left_out=arms_left_out,
        left_out=log.left_out,
        num_read=log.num_read,
        lines_rejected=log.lines_rejected,
    )


def _of_candidate(
    log: Decisions, candidate: Candidate, artist_of: Int[np.ndarray, "N"]
) -> tuple[Float64[np.ndarray, "S"], Float64[np.ndarray, "S"], Float64[np.ndarray, "S"]]:
    """The weight of each decision, the predicted reward of the logged track, and that of the candidate's pick.

    Predicted by the model of the other half of the users, which has not seen the decision.
    """
    half, every = np.unique(log.of("user_id"), return_inverse=True)[1] % 2, np.arange(len(artist_of))
    weights, predicted, expected = (np.zeros(len(log)) for _ in range(3))

    def is_same(some: Decisions, tracks: np.ndarray) -> np.ndarray:
        return np.asarray(artist_of[tracks] == artist_of[some.of("track")][:, None])

    for one in (0, 1):
        seen = log.where(half != one)
        chosen = seen.of("track", 1)
        model = RewardModel.fit(chosen, is_same(seen, chosen[:, None])[:, 0], seen.of("time", 1), len(artist_of))
        of_any = float(model.predict(every, np.zeros(len(every), bool)).mean())
        own = np.flatnonzero(half == one)
        for part in np.split(own, range(_CHUNK, len(own), _CHUNK)):
            some = log.where(part)
            choices, tracks = candidate.choices(some), some.of("track", 1)[:, None]
            weights[part] = choices.asked[:, 0] / some.of("propensity")
            predicted[part] = model.predict(tracks, is_same(some, tracks))[:, 0]
            shares = model.predict(choices.tracks, is_same(some, choices.tracks))
            expected[part] = (choices.probabilities * shares).sum(1) + choices.rest * of_any
    return weights, predicted, expected


def _means(arms: Mapping[str, float]) -> str:
    return ", ".join(f"{mean:.3g} in {arm}" for arm, mean in arms.items())


def estimate_table(found: OffPolicy, candidate: str) -> Table:
    """The candidate, and the arms of the log as they were.

    Args:
        found: the estimates.
        candidate: name of the candidate.
    """
    rows = [
        [candidate, how, number(one.value, ".3f"), interval(one.lower, one.upper, ".3f")]
        for how, one in (("robust", found.first_step_dr), ("SNIPS", found.first_step_snips))
    ] + [
        [arm, "as logged", number(one.mean, ".3f"), interval(one.lower, one.upper, ".3f")]
        for arm, one in found.arms.items()
    ]
    return Table(
        title="Estimates from the log", columns=["name", "how", "first step", "interval"], rows=rows, align="llRR"
    )


def remarks(found: OffPolicy) -> list[str]:
    """What a reader must know about the estimates, one sentence each."""
    effective, num_left_out = found.first_step_snips.effective_sample_size, sum(found.left_out.values())
    notes = {
        f"{found.num_sessions:,} sessions of the log are worth {effective:,.0f} of the candidate (effective sample "
        "size).": True,
        "first step: mean share played of the first recommended track. robust: doubly robust. Intervals have level "
        "95 %.": True,
        "A candidate that was trained on these sessions looks better than it is; use logs that it has not seen.": True,
        f"With an effective sample size below {FEW}, fewer than 95 % of the intervals hold the truth; use more "
        "sessions before you rely on this estimate.": effective < FEW,
        "Arms that are left out, because their mean weight is not 1, as where an arm could have made all picks of the "
        f"candidate: {_means(found.arms_left_out)}.": found.arms_left_out,
        f"Left out, {num_left_out / found.num_read:.1%} of the sessions of the log: {left_out_text(found.left_out)}. "
        "If they differ from the others, the estimates are biased.": num_left_out,
        f"Left out: {found.lines_rejected:,} lines that are not events.": found.lines_rejected,
    }
    return [note for note, is_said in notes.items() if is_said]
