"""Off-policy estimates: how a recommender would do, from the log of others.

S sessions, A settings (an arm of a release), K tracks that the candidate may pick.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from segue.errors import InputError, check_number
from segue.picking.picker import Choices
from segue.statistics.intervals import LEVEL
from segue.verdicts.offpolicy.behaviours import Behaviour, LogFolder
from segue.verdicts.offpolicy.decisions import Decisions, left_out_text
from segue.verdicts.offpolicy.estimators import Estimate, RewardModel, doubly_robust, per_decision, snips

_SAME = 1e-6
"""Largest relative difference between a logged propensity and that of the release."""

_MAX_DIFFERENT = 0.01
"""Accepted share of sessions with another propensity than that of their release."""

_CHUNK = 4096
"""Decisions whose choices are computed together."""


@dataclass(frozen=True, kw_only=True)
class EstimateSettings:
    """When an estimate is made, and how.

    Args:
        clip: largest product of the weights of a session, at least 1.
        min_effective_sample_size: fewer are refused, at least 2.
        max_without_support: accepted share of the candidate's picks that no arm could have made, in [0, 1].
        min_session_weight: smallest mean weight at the end of a session, in [0, 1]. It is 1 where the sessions of the
            candidate have support and nothing is clipped; less means that its long sessions are missing.

    Raises:
        InputError: a setting is out of range.
    """

    clip: int | float
    min_effective_sample_size: int | float
    max_without_support: int | float
    min_session_weight: int | float

    def __post_init__(self) -> None:
        for name, least, most in (
            ("clip", 1, inf),
            ("min_effective_sample_size", 2, inf),
            ("max_without_support", 0, 1),
            ("min_session_weight", 0, 1),
        ):
            hint = f"train.py calls it callbacks.off_policy.settings.{name}"
            check_number(f"estimate.{name}", getattr(self, name), least=least, most=most, hint=hint)


@dataclass(frozen=True, kw_only=True)
class OffPolicy:
    """The estimates of a candidate.

    Args:
        first_step_snips: mean share played of the first recommended track.
        first_step_dr: the same, doubly robust.
        session_snips: mean time per session; None if it is not reliable.
        session_mean_weight: mean weight at the end of a session.
        share_without_support: share of the candidate's first picks that no arm could have made.
        num_sessions: sessions that the estimates are from.
        arms_left_out: texts of `experiments` of arms whose recommender is not known.
        different: sessions left out because a propensity is not that of the release.
        left_out: sessions that were left out by the reader, by reason.
        num_read: sessions of the whole log, with those that were left out.
        lines_rejected: lines of the log that are not events.
        is_mixture: whether the weights are of the mixture of all arms; if not, of the arm of each session alone.
    """

    first_step_snips: Estimate
    first_step_dr: Estimate
    session_snips: Estimate | None
    session_mean_weight: float
    share_without_support: float
    num_sessions: int
    arms_left_out: list[str]
    different: int
    left_out: dict[str, int]
    num_read: int
    lines_rejected: int
    is_mixture: bool

    @property
    def share_left_out(self) -> float:
        """Share of the sessions of the log that the reader left out."""
        return sum(self.left_out.values()) / self.num_read

    def metrics(self) -> dict[str, float]:
        """The numbers by their names in MLflow and `metrics.json`."""
        named: dict[str, float] = {
            "offline/num_sessions": float(self.num_sessions),
            "offline/share_without_support": self.share_without_support,
            "offline/first_step_effective_sample_size": self.first_step_snips.effective_sample_size,
            "offline/session_mean_weight": self.session_mean_weight,
        }
        if self.session_snips is not None:
            named["offline/session_effective_sample_size"] = self.session_snips.effective_sample_size
        for name in ("first_step_snips", "first_step_dr", "session_snips"):
            estimate: Estimate | None = getattr(self, name)
            if estimate is not None:
                named[f"offline/{name}"] = estimate.value
                named[f"offline/{name}_lower"], named[f"offline/{name}_upper"] = estimate.lower, estimate.upper
        return named

    def record(self) -> dict[str, Any]:
        """All of it, for `estimate.json`."""
        return asdict(self)


class OffPolicyLog:
    """A log whose propensities are known.

    Args:
        decisions: the sessions to estimate from.
        folder: the logs, and what is beside them.
        fitting: other sessions, from which the reward model is fitted; None to fit it on one half of the users for the
            other half.

    Raises:
        InputError: no session can be used, or propensities are not those of the releases.
    """

    def __init__(self, decisions: Decisions, folder: LogFolder, fitting: Decisions | None = None) -> None:
        self._artist_of = np.asarray(folder.catalog.artist_of, np.int64)
        known = [folder.behaviour(*setting) for setting in decisions.settings]
        is_known = np.array([behaviour is not None for behaviour in known])
        used = np.unique(decisions.setting)
        self.is_mixture = bool(is_known[used].any())
        self.arms_left_out: list[str] = []
        if self.is_mixture:
            self.arms_left_out = [decisions.settings[s][0] for s in used.tolist() if not is_known[s]]
            decisions = decisions.where(is_known[decisions.setting])
        if not len(decisions):
            raise InputError(
                f"logs={folder.logs}: none of {decisions.num_sessions} sessions can be used: "
                f"{left_out_text(decisions.left_out)}"
            )
        self._known: dict[int, Behaviour] = {s: b for s, b in enumerate(known) if b is not None}
        self._releases = np.array([release for _, release in decisions.settings])
        self.different = 0
        own, logged = self._own_propensity(decisions), decisions.propensities[decisions.first + 1]
        is_different = np.abs(own - logged) > _SAME * logged
        if is_different.mean() > _MAX_DIFFERENT:
            place = int(is_different.argmax())
            raise InputError(
                f"logs={folder.logs}: {is_different.sum()} of {len(decisions)} sessions have another propensity than "
                f"their release, such as {logged[place]:.6g} instead of {own[place]:.6g} of user "
                f"{decisions.users[place]} at {decisions.started_ms[place]}; the log or the release was changed"
            )
        self.different = int(is_different.sum())
        self.decisions = decisions.where(~is_different)
        self._fitting = fitting

    def _own_propensity(self, decisions: Decisions) -> Float64[np.ndarray, "S"]:
        """Probability of the first recommendation of each session by the release of its line."""
        own, chosen = decisions.propensities[decisions.first + 1].copy(), decisions.tracks[decisions.first + 1]
        for setting, behaviour in self._known.items():
            some = np.flatnonzero(decisions.setting == setting)
            for part in np.array_split(some, -(-len(some) // _CHUNK) or 1):
                choices = behaviour.choices(decisions.users[part], decisions.tracks[decisions.first[part]][:, None])
                own[part] = choices.of(chosen[part, None])[:, 0]
        return np.asarray(own)

    def estimate(self, candidate: Behaviour, settings: EstimateSettings) -> OffPolicy:
        """Estimate a candidate.

        Args:
            candidate: how it recommends.
            settings: when an estimate is made, and how.

        Raises:
            InputError: too few sessions, or too many picks of the candidate, have support in the log.
        """
        sessions = self.decisions
        first = self._first_step(candidate)
        weights, rewards = first["weights"], sessions.shares[sessions.first + 1]
        unsupported = float(first["unsupported"].mean()) if self.is_mixture else max(0.0, 1 - float(weights.mean()))
        if unsupported > settings.max_without_support:
            raise InputError(
                f"the logs have no support for {unsupported:.1%} of the candidate's picks, more than "
                f"estimate.max_without_support={settings.max_without_support:g} allows; an arm with random tracks "
                "supports every candidate"
            )
        square = float(first["square"].mean())
        known: dict[str, Any] = {"expected_square": square, "expected_mean": 1 - unsupported} if self.is_mixture else {}
        by_snips = snips(weights, rewards, sessions.users, LEVEL, **known)
        effective = by_snips.effective_sample_size
        if effective < settings.min_effective_sample_size:
            raise InputError(
                f"the logs are worth {effective:.1f} sessions of the candidate (effective sample size), less than "
                f"estimate.min_effective_sample_size={settings.min_effective_sample_size:g}; use more logs, or logs of "
                "a more similar recommender"
            )
        by_dr = doubly_robust(
            weights,
            rewards,
            first["predicted"],
            first["expected"],
            sessions.users,
            LEVEL,
            self_normalised=True,
            **known,
        )
        session, mean_weight = self._session(candidate, settings.clip)
        is_reliable = (
            mean_weight >= settings.min_session_weight
            and session.effective_sample_size >= settings.min_effective_sample_size
        )
        return OffPolicy(
            first_step_snips=by_snips,
            first_step_dr=by_dr,
            session_snips=session if is_reliable else None,
            session_mean_weight=mean_weight,
            share_without_support=unsupported,
            num_sessions=len(sessions),
            arms_left_out=self.arms_left_out,
            different=self.different,
            left_out=sessions.left_out,
            num_read=sessions.num_sessions,
            lines_rejected=sessions.lines_rejected,
            is_mixture=self.is_mixture,
        )

    def _first_step(self, candidate: Behaviour) -> dict[str, Float64[np.ndarray, "S"]]:
        """For each first decision its weight, predicted rewards, the share of the candidate's picks without support,
        and the mean square of the weights that it could have had."""
        sessions = self.decisions
        columns = {
            name: np.zeros(len(sessions)) for name in ("weights", "predicted", "expected", "unsupported", "square")
        }
        models, fold = self._models()
        for part in np.array_split(np.arange(len(sessions)), -(-len(sessions) // _CHUNK)):
            some = sessions.where(part)
            played = some.tracks[some.first][:, None]
            choices, tracks = candidate.choices(some.users, played), some.tracks[some.first + 1]
            mixture = self.mixture(some, played, np.concatenate([tracks[:, None], choices.tracks], 1))
            columns["weights"][part] = choices.of(tracks[:, None])[:, 0] / mixture[:, 0]
            if self.is_mixture:
                columns["unsupported"][part], columns["square"][part] = self._support(some, choices, mixture[:, 1:])
            for number, model in enumerate(models):
                of_fold = fold[part] == number
                expected = self._expected(model, choices, played)
                predicted = model.predict(tracks, self._is_same(tracks[:, None], played)[:, 0])
                columns["predicted"][part] = np.where(of_fold, predicted, columns["predicted"][part])
                columns["expected"][part] = np.where(of_fold, expected, columns["expected"][part])
        return columns

    def mixture(
        self, some: Decisions, played: Int64[np.ndarray, "S T"], asked: Int64[np.ndarray, "S M"]
    ) -> Float64[np.ndarray, "S M"]:
        """Compute the probability of tracks in the log: of the arms of a release, by their shares of its sessions.

        Args:
            some: sessions of the log.
            played: rows of the tracks that each has played before the decision, the last one last.
            asked: rows of tracks; if no arm is known, the logged one first, and of the others nothing is known.

        Returns:
            In [0, 1].
        """
        logged = some.propensities[some.first + played.shape[1]]
        if not self.is_mixture:  # the arm of each session alone; of its own track only
            return np.where(np.arange(asked.shape[1]) == 0, logged[:, None], 0.0)
        found = np.zeros(asked.shape)
        for rows, setting, share in self._parts(some):
            choices = self._known[setting].choices(some.users[rows], played[rows])
            found[rows] += share * choices.of(asked[rows])
        return found

    def _parts(self, some: Decisions) -> list[tuple[Int64[np.ndarray, "s"], int, float]]:
        """For each known arm, the sessions of its release and its share of them."""
        counts = np.bincount(self.decisions.setting, minlength=len(self._releases))
        parts = []
        for release in np.unique(self._releases[some.setting]).tolist():
            rows = np.flatnonzero(self._releases[some.setting] == release)
            settings = [s for s in self._known if self._releases[s] == release and counts[s]]
            parts += [(rows, s, float(counts[s] / counts[settings].sum())) for s in settings]
        return parts

    def _support(
        self, some: Decisions, choices: Choices, mixture: Float64[np.ndarray, "S K"]
    ) -> tuple[Float64[np.ndarray, "S"], Float64[np.ndarray, "S"]]:
        """Share of the candidate's picks without support, and Σ π²/μ over those with support."""
        is_missing = mixture <= 0
        missing = (choices.probabilities * is_missing).sum(1)
        square = (choices.probabilities**2 / np.where(is_missing, np.inf, mixture)).sum(1)
        if choices.rest.any():  # a pick of any track has the support of arms that pick any track
            covered = np.zeros(len(some))
            for rows, setting, share in self._parts(some):
                covered[rows] += share * (self._known[setting].picker.policy == "random")
            missing += choices.rest * (covered == 0)
            square += choices.rest**2 / np.where(covered > 0, covered, np.inf)
        return missing, square

    def _models(self) -> tuple[list[RewardModel], Int64[np.ndarray, "S"]]:
        """Reward models, and the one that has not seen each session."""
        sessions = self.decisions
        if self._fitting is not None:
            return [self._fit(self._fitting)], np.zeros(len(sessions), np.int64)
        fold = np.unique(sessions.users, return_inverse=True)[1] % 2
        return [self._fit(sessions.where(fold != number)) for number in (0, 1)], fold

    def _fit(self, sessions: Decisions) -> RewardModel:
        tracks, played = sessions.tracks[sessions.first + 1], sessions.tracks[sessions.first][:, None]
        is_same = self._is_same(tracks[:, None], played)[:, 0]
        return RewardModel.fit(tracks, is_same, sessions.shares[sessions.first + 1], len(self._artist_of))

    def _is_same(self, tracks: Int64[np.ndarray, "S M"], played: Int64[np.ndarray, "S T"]) -> Bool[np.ndarray, "S M"]:
        return np.asarray(self._artist_of[tracks] == self._artist_of[played[:, -1:]])

    def _expected(
        self, model: RewardModel, choices: Choices, played: Int64[np.ndarray, "S T"]
    ) -> Float64[np.ndarray, "S"]:
        """Predicted reward of the candidate's pick."""
        predicted = model.predict(choices.tracks, self._is_same(choices.tracks, played))
        every = np.arange(len(self._artist_of))
        of_any = float(model.predict(every, np.zeros(len(every), bool)).mean())
        return np.asarray((choices.probabilities * predicted).sum(1) + choices.rest * of_any)

    def _session(self, candidate: Behaviour, clip: float) -> tuple[Estimate, float]:
        """Mean time per session, with the share of the first track, and the mean weight at the end."""
        weights = np.ones(len(self.decisions))
        estimate = per_decision(self._steps(candidate, weights), self.decisions.users, LEVEL, clip)
        return estimate, float(np.minimum(weights, clip).mean())

    def _steps(
        self, candidate: Behaviour, weights: Float64[np.ndarray, "S"]
    ) -> Iterator[tuple[Float64[np.ndarray, "S"], Float64[np.ndarray, "S"]]]:
        """Weights and rewards of each step; `weights` begins with 1 and is changed in place."""
        sessions = self.decisions
        yield weights, sessions.shares[sessions.first]
        of_candidate, of_arms = np.zeros(len(sessions)), self._log_shares()
        for step in range(1, int(sessions.lengths.max())):
            goes_on, rewards = sessions.lengths > step, np.zeros(len(sessions))
            rewards[goes_on] = sessions.shares[sessions.first[goes_on] + step]
            active = np.flatnonzero(goes_on & np.isfinite(of_candidate))
            for part in np.array_split(active, -(-len(active) // _CHUNK) or 1):
                if len(part):
                    self._advance(candidate, step, part, of_candidate, of_arms)
            weights[active] = np.exp(of_candidate[active] - np.logaddexp.reduce(of_arms[active], axis=1))
            yield weights, rewards

    def _log_shares(self) -> Float64[np.ndarray, "S A"]:
        """Logarithm of the share of each arm among the sessions of the release; −∞ for arms of other releases."""
        shares = np.zeros((len(self.decisions), len(self._releases)))
        if self.is_mixture:
            for rows, setting, share in self._parts(self.decisions):
                shares[rows, setting] = share
        else:
            shares[np.arange(len(self.decisions)), self.decisions.setting] = 1.0
        with np.errstate(divide="ignore"):
            return np.log(shares)

    def _advance(
        self,
        candidate: Behaviour,
        step: int,
        part: Int64[np.ndarray, "s"],
        of_candidate: Float64[np.ndarray, "S"],
        of_arms: Float64[np.ndarray, "S A"],
    ) -> None:
        """Add the log probabilities of a step, of the candidate and of every arm, to the sums of some sessions."""
        sessions = self.decisions
        users, first = sessions.users[part], sessions.first[part]
        played, asked = sessions.tracks[first[:, None] + np.arange(step)], sessions.tracks[first + step][:, None]
        with np.errstate(divide="ignore"):
            of_candidate[part] += np.log(candidate.choices(users, played).of(asked)[:, 0])
            of_arms[part, sessions.setting[part]] += np.log(sessions.propensities[first + step])
            for setting, behaviour in self._known.items():
                rows = np.flatnonzero(np.isfinite(of_arms[part, setting]) & (sessions.setting[part] != setting))
                if len(rows):
                    found = behaviour.choices(users[rows], played[rows]).of(asked[rows])[:, 0]
                    of_arms[part[rows], setting] += np.log(found)
