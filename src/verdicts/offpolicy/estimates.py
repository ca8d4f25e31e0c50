"""Off-policy estimates: how a recommender would do, from the log of others.

S sessions, A settings (an arm of a release), K tracks that the candidate may pick.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from segue.errors import InputError
from segue.picking.picker import Choices
from segue.settings import Setting, settings
from segue.statistics.discovery import DISCOVERY
from segue.statistics.intervals import LEVEL, MeanInterval
from segue.verdicts.offpolicy.behaviours import Behaviour, LogFolder
from segue.verdicts.offpolicy.decisions import Decisions, left_out_text
from segue.verdicts.offpolicy.estimators import Estimate, RewardModel, doubly_robust, per_decision, snips

_SAME = 1e-6  # largest relative difference between a logged propensity and that of the release

_MAX_DIFFERENT = 0.01  # accepted share of sessions with another propensity than that of their release

_CHUNK = 1024  # decisions whose choices are computed together

_ANY = 64  # tracks of the catalogue that stand for all of it, other ones for each decision

_Part = Int64[np.ndarray, "s"]  # numbers of some sessions
_Each = Float64[np.ndarray, "S"]

_limit = partial(Setting, hint="train.py calls it callbacks.off_policy.settings.…")
_share = partial(_limit, least=0, most=1)


@settings("estimate")
@dataclass(frozen=True, kw_only=True)
class EstimateSettings:
    """When an estimate is made, and how."""

    clip: Annotated[
        float, _limit("largest product of the weights of a session; larger ones are reduced to it", least=1)
    ] = 100.0
    min_effective_sample_size: Annotated[
        float, _limit("less is refused, because the interval is too wide to be of use", least=2)
    ] = 10.0
    max_without_support: Annotated[
        float, _share("accepted share of the candidate's picks that no arm of the log could have made")
    ] = 0.01
    min_session_weight: Annotated[
        float,
        _share(
            "smallest mean weight at the end of a session; it is 1 where nothing is missing or clipped, and less where "
            "the long sessions of the candidate are missing"
        ),
    ] = 0.9


@dataclass(frozen=True, kw_only=True)
class OffPolicy:
    """The estimates of a candidate.

    Args:
        first_step_snips: mean share played of the first recommended track.
        first_step_dr: the same, doubly robust.
        first_step_known: share of the first recommended tracks that their listeners knew before, by the name of a
            metric (`statistics/discovery.py`), in sessions of listeners who have an earlier one; none without these.
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
    first_step_known: dict[str, MeanInterval]
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
            "num_sessions": float(self.num_sessions),
            "share_without_support": self.share_without_support,
            "first_step_effective_sample_size": self.first_step_snips.effective_sample_size,
            "session_mean_weight": self.session_mean_weight,
        }
        if self.session_snips is not None:
            named["session_effective_sample_size"] = self.session_snips.effective_sample_size
        names = ("first_step_snips", "first_step_dr", "session_snips")
        found = {name: (one.value, one) for name in names if (one := getattr(self, name)) is not None}
        found |= {f"first_step_{name}": (one.mean, one) for name, one in self.first_step_known.items()}
        for name, (value, one) in found.items():
            named |= {name: value, f"{name}_lower": one.lower, f"{name}_upper": one.upper}
        return {f"offline/{name}": value for name, value in named.items()}


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
        found = {setting: folder.behaviour(*texts) for setting, texts in enumerate(decisions.settings)}
        self._known = {setting: behaviour for setting, behaviour in found.items() if behaviour is not None}
        own, logged = self._own_propensity(decisions), decisions.propensities[decisions.first + 1]
        is_different = np.abs(own - logged) > _SAME * logged
        for setting in [one for one, behaviour in self._known.items() if behaviour.knows_listeners]:
            of_setting = decisions.setting == setting
            if (is_different & of_setting).sum() > _MAX_DIFFERENT * of_setting.sum():  # it knew more than the log says
                del self._known[setting]
        is_known, used = np.isin(decisions.setting, list(self._known)), np.unique(decisions.setting).tolist()
        self.is_mixture = bool(is_known.any())
        unknown = [decisions.settings[one][0] for one in used if one not in self._known]
        self.arms_left_out = unknown if self.is_mixture else []
        kept = is_known if self.is_mixture else np.ones(len(decisions), bool)
        decisions, is_different = decisions.where(kept), (is_different & is_known)[kept]
        if not len(decisions):
            raise InputError(
                f"logs={folder.logs}: none of {decisions.num_sessions} sessions can be used: "
                f"{left_out_text(decisions.left_out)}"
            )
        if is_different.mean() > _MAX_DIFFERENT:
            place = int(is_different.argmax())
            raise InputError(
                f"logs={folder.logs}: {is_different.sum()} of {len(decisions)} sessions have another propensity than "
                f"their release, such as {logged[kept][place]:.6g} instead of {own[kept][place]:.6g} in the "
                f"session that began at {decisions.started_ms[place]} ms; the log or the release was changed"
            )
        self.different = int(is_different.sum())
        self.decisions = decisions.where(~is_different)
        self._fitting = fitting
        self._shares = self._shares_of_arms([release for _, release in decisions.settings])

    def _shares_of_arms(self, releases: list[str]) -> Float64[np.ndarray, "S A"]:
        """Share of each arm among the sessions of the release of each session; the arm of each alone, if not known."""
        if not self.is_mixture:
            return np.asarray(np.eye(len(releases))[self.decisions.setting])
        is_known = np.isin(np.arange(len(releases)), list(self._known))
        counts = np.bincount(self.decisions.setting, minlength=len(releases)) * is_known
        of_release = counts * (np.array(releases)[:, None] == np.array(releases))
        return np.asarray(of_release[self.decisions.setting] / of_release.sum(1)[self.decisions.setting, None])

    def _own_propensity(self, decisions: Decisions) -> _Each:
        """Probability of the first recommendation of each session by the release of its line."""
        own, chosen = decisions.propensities[decisions.first + 1].copy(), decisions.tracks[decisions.first + 1]
        for setting, behaviour in self._known.items():
            for part in _chunks(np.flatnonzero(decisions.setting == setting)):
                some = decisions.where(part)
                own[part] = behaviour.choices(some, 1).of(chosen[part, None])[:, 0]
        return np.asarray(own)

    def estimate(self, candidate: Behaviour, settings: EstimateSettings) -> OffPolicy:
        """Estimate a candidate.

        Args:
            candidate: how it recommends.
            settings: when an estimate is made, and how.

        Raises:
            InputError: too few sessions, or too many picks of the candidate, have support in the log.
        """
        sessions, first = self.decisions, self._first_step(candidate)
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
        of_session = np.ones(len(sessions))
        session = per_decision(self._steps(candidate, of_session), sessions.users, LEVEL, settings.clip)
        mean_weight = float(np.minimum(of_session, settings.clip).mean())
        is_large = session.effective_sample_size >= settings.min_effective_sample_size
        robust = doubly_robust(weights, rewards, first["predicted"], first["expected"], sessions.users, LEVEL, **known)
        return OffPolicy(
            first_step_snips=by_snips,
            first_step_dr=robust,
            first_step_known=self.means_of_known({name: first[name] for name in DISCOVERY if name in first}),
            session_snips=session if is_large and mean_weight >= settings.min_session_weight else None,
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

    def _first_step(self, candidate: Behaviour) -> dict[str, _Each]:
        """For each first decision its weight, predicted rewards, the share of the candidate's picks without support,
        and the mean square of the weights that it could have had."""
        sessions = self.decisions
        names = ("weights", "predicted", "expected", "unsupported", "square")
        columns = {name: np.zeros(len(sessions)) for name in names}
        models, fold = self._models()
        for part in _chunks(np.arange(len(sessions))):
            some = sessions.where(part)
            played = some.tracks[some.first][:, None]
            choices = candidate.choices(some, 1)
            tracks = some.tracks[some.first + 1][:, None]
            mixture = self.mixture(part, np.concatenate([tracks, choices.tracks], 1))
            columns["weights"][part] = choices.of(tracks)[:, 0] / mixture[:, 0]
            for name, values in self._share_known(some, choices).items():
                columns.setdefault(name, np.zeros(len(sessions)))[part] = values
            if self.is_mixture:
                columns["unsupported"][part], columns["square"][part] = self._support(part, choices, mixture[:, 1:])
            for number, model in enumerate(models):
                own = fold[part] == number
                columns["predicted"][part[own]] = model.predict(tracks, self._is_same(tracks, played))[own, 0]
                columns["expected"][part[own]] = self._expected(model, choices, played)[own]
        return columns

    def _share_known(self, some: Decisions, choices: Choices) -> dict[str, _Each]:
        """Share of the candidate's picks that were known before.

        It needs no weights: what the listener knew says it of each track that may be picked. Of any track of the
        catalogue it is the mean over `_ANY` of them.
        """
        found = {name: (choices.probabilities * one).sum(1) for name, one in some.known(choices.tracks).items()}
        if choices.rest.any():
            any_tracks = np.random.default_rng(0).integers(len(self._artist_of), size=(len(some), _ANY))
            for name, one in some.known(any_tracks).items():
                found[name] += choices.rest * one.mean(1)
        return found

    def means_of_known(
        self, known: Mapping[str, _Each], own: Bool[np.ndarray, "S"] | None = None
    ) -> dict[str, MeanInterval]:
        """Means over sessions of listeners who have an earlier one, by metric; none where there is no such session.

        Args:
            known: of each session of the log.
            own: whether a session counts; None for all.
        """
        counts = self.decisions.has_past if own is None else self.decisions.has_past & own
        if not counts.any():
            return {}
        users = self.decisions.users[counts]
        return {name: MeanInterval.of_clusters(one[counts], users, LEVEL) for name, one in known.items()}

    def mixture(self, part: _Part, asked: Int64[np.ndarray, "s M"]) -> Float64[np.ndarray, "s M"]:
        """Compute the probability of tracks at the first decision: of the arms of a release, by their shares.

        Args:
            part: numbers of the sessions.
            asked: rows of tracks; if no arm is known, the logged one first, and of the others nothing is known.

        Returns:
            In [0, 1].
        """
        found, some = np.zeros(asked.shape), self.decisions.where(part)
        if not self.is_mixture:
            found[:, 0] = some.propensities[some.first + 1]
            return found
        for setting, behaviour in self._known.items():
            if len(rows := np.flatnonzero(self._shares[part, setting])):
                shares = self._shares[part[rows], setting, None]
                found[rows] += shares * behaviour.choices(some.where(rows), 1).of(asked[rows])
        return found

    def _support(self, part: _Part, choices: Choices, mixture: Float64[np.ndarray, "s K"]) -> tuple[Any, Any]:
        """Share of the candidate's picks without support, and Σ π²/μ over those with support."""
        is_missing, covered = mixture <= 0, np.zeros(len(part))
        for setting, behaviour in self._known.items():  # a pick of any track has the support of arms that pick any
            covered += self._shares[part, setting] * (behaviour.picker.policy == "random")
        missing = (choices.probabilities * is_missing).sum(1) + choices.rest * (covered == 0)
        square = (choices.probabilities**2 / np.where(is_missing, np.inf, mixture)).sum(1)
        return missing, square + choices.rest**2 / np.where(covered > 0, covered, np.inf)

    def _models(self) -> tuple[list[RewardModel], Int64[np.ndarray, "S"]]:
        """Reward models, and the one that has not seen each session."""
        fold = np.unique(self.decisions.users, return_inverse=True)[1] % 2
        seen = [self.decisions.where(fold != number) for number in (0, 1)]
        if self._fitting is not None:
            seen, fold = [self._fitting], np.zeros(len(fold), np.int64)
        models = []
        for some in seen:
            tracks, played = some.tracks[some.first + 1], some.tracks[some.first][:, None]
            is_same = self._is_same(tracks[:, None], played)[:, 0]
            models.append(RewardModel.fit(tracks, is_same, some.shares[some.first + 1], len(self._artist_of)))
        return models, fold

    def _is_same(self, tracks: Int64[np.ndarray, "S M"], played: Int64[np.ndarray, "S T"]) -> Bool[np.ndarray, "S M"]:
        return np.asarray(self._artist_of[tracks] == self._artist_of[played[:, -1:]])

    def _expected(self, model: RewardModel, choices: Choices, played: Int64[np.ndarray, "S T"]) -> _Each:
        predicted, every = model.predict(choices.tracks, self._is_same(choices.tracks, played)), len(self._artist_of)
        of_any = float(model.predict(np.arange(every), np.zeros(every, bool)).mean())
        return np.asarray((choices.probabilities * predicted).sum(1) + choices.rest * of_any)

    def _steps(self, candidate: Behaviour, weights: _Each) -> Iterator[tuple[_Each, _Each]]:
        """Weights and rewards of each step; `weights` begins with 1 and is changed in place."""
        sessions = self.decisions
        yield weights, sessions.shares[sessions.first]
        with np.errstate(divide="ignore"):
            of_candidate, of_arms = np.zeros(len(sessions)), np.log(self._shares)
        for step in range(1, int(sessions.lengths.max())):
            goes_on, rewards = sessions.lengths > step, np.zeros(len(sessions))
            rewards[goes_on] = sessions.shares[sessions.first[goes_on] + step]
            active = np.flatnonzero(goes_on & np.isfinite(of_candidate))
            for part in _chunks(active):
                self._advance(candidate, step, part, of_candidate, of_arms)
            weights[active] = np.exp(of_candidate[active] - np.logaddexp.reduce(of_arms[active], axis=1))
            yield weights, rewards

    def _advance(
        self, candidate: Behaviour, step: int, part: _Part, of_candidate: _Each, of_arms: Float64[np.ndarray, "S A"]
    ) -> None:
        """Add the log probabilities of a step, of the candidate and of every arm, to the sums of some sessions."""
        some = self.decisions.where(part)
        asked = some.tracks[some.first + step][:, None]
        with np.errstate(divide="ignore"):
            of_candidate[part] += np.log(candidate.choices(some, step).of(asked)[:, 0])
            of_arms[part, some.setting] += np.log(some.propensities[some.first + step])
            for setting, behaviour in self._known.items():
                rows = np.flatnonzero(np.isfinite(of_arms[part, setting]) & (some.setting != setting))
                if len(rows):
                    found = behaviour.choices(some.where(rows), step).of(asked[rows])[:, 0]
                    of_arms[part[rows], setting] += np.log(found)


def _chunks(rows: Int64[np.ndarray, "S"]) -> list[Int64[np.ndarray, "s"]]:
    return np.array_split(rows, -(-len(rows) // _CHUNK)) if len(rows) else []
