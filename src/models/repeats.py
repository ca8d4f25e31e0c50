"""Repeats: how tracks already heard are ranked, and other tracks by their artists.

B pairs, H tracks of a history, Q queries, N tracks in the catalogue, P places: ages of tracks up to MOST_AGES, then
ages of artists up to MOST_OF_ARTISTS; G groups of them. The age of a track is how many places ago it was heard last: 1
is the track just before. That of an artist is the age of its newest track.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Float64, Int64, Real
from scipy.sparse import csr_array
from torch import Tensor, nn

from segue.catalog import Listens, Vocabulary
from segue.histories import Histories

MOST_REPEATED = 0.05
"""Largest share of repeats among the training targets for which `auto` does not compare `always`."""
MOST_AGES = 64
"""Tracks that were heard longer ago are candidates like all others."""
MOST_OF_ARTISTS = 20
"""Artists that were heard longer ago are like all others."""
ARTISTS = "artists"
"""Name of the best way to rank tracks already heard, with other tracks boosted by their artists."""
_AGES, _ARTIST_AGES = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MOST_AGES], [1, 2, 5, 10, MOST_OF_ARTISTS]
HEARD, OF_ARTISTS = slice(MOST_AGES), slice(MOST_AGES, MOST_AGES + MOST_OF_ARTISTS)
"""Places of tracks heard, by age, and of tracks by the artists heard, by the age of the artist."""
# The group of each place; all places of a group are boosted alike.
_GROUPS = np.append(
    np.searchsorted(_AGES, np.arange(1, MOST_AGES + 1)),
    len(_AGES) + np.searchsorted(_ARTIST_AGES, np.arange(1, MOST_OF_ARTISTS + 1)),
)
_NUM_FITTED, _LEAST, _ROUNDS = 5000, 50, 200
"""Training targets that boosts are fitted to, how many of them have to repeat a track, or an artist, and steps of the
fit."""
_PRIOR = 0.1  # targets that are added to each group of places: what the model expects
_DECIDED = ("used", "by_artist", "compared")
_Placed = tuple[Int64[np.ndarray, "E"], Int64[np.ndarray, "E"], Int64[np.ndarray, "E"]]
SharesOf = Callable[[Histories], Float[Tensor, "B N"]]
"""From histories to the probability that a model gives each track."""


class Repeats(nn.Module):
    """One rule for tracks already heard: in the softmax (`losses.py`), in ranks (`retrieval/ranks.py`), in the scores
    of baselines, and in the candidates of a session (`picking/session_search.py`).

    With the list of the last track, the rule of `pick` decides alone whether a track is picked again.

    With `auto`, boosts are fitted besides (`fit`), where training has enough repeats: what a track gets for having been
    heard, by its age, and what another track gets for its artist, by the age of the artist. Validation chooses among
    them, `always` where more than MOST_REPEATED of the training targets are repeats, and `never`, and whether artists
    are boosted (`choose`).

    Args:
        rule: `always` (they are candidates like all others), `never` (they come after all others, and are no negatives
            in training), or `auto`: `never` in training.
        vocabulary: the training sessions.
        length: number of newest tracks that come after all others with `never`.

    Attributes:
        rule: that of training: `always` or `never`.
        fitted: what is added to the score of a track by its place, in the unit of the scores, and for scores that are
            shares a second number, see `boosted_shares`; 0 where nothing is fitted.
        used: how tracks already heard are ranked: `boosts`, `always` or `never`.
        by_artist: whether other tracks are boosted by their artists.
        compared: ndcg@10 in validation of each that could be used; None where nothing was compared.
    """

    def __init__(self, rule: str, vocabulary: Vocabulary, *, length: int) -> None:
        super().__init__()
        self._length, self._artist_of = length, vocabulary.catalog.artist_of
        self._tracks_of = tracks_of(self._artist_of)
        self.share: float | None = None
        self.asked: Targets | None = None
        if rule == "auto":
            self.share, rule = share_of_repeats(vocabulary.listens), "never"
            self.asked = newest_targets(vocabulary.listens, self._artist_of)
        self.rule = self.used = rule
        self.fitted: Float64[np.ndarray, "2 P"] = np.zeros((2, len(_GROUPS)))
        self.by_artist = False
        self.compared: Mapping[str, float] | None = None

    def choose(
        self,
        values: Callable[[], Float64[np.ndarray, "Q"]],
        ndcg: Callable[[Float64[np.ndarray, "Q"]], Float64[np.ndarray, "Q"]] = np.asarray,
    ) -> Float64[np.ndarray, "Q"]:
        """Take the way that ranks validation queries best; without `auto` there is one.

        Args:
            values: computes what `ndcg` needs of validation queries, by the way that is in force.
            ndcg: from these values to ndcg@10 of each query; by default they are it.

        Returns:
            The values by what is taken: of equally good ways `never`, or else `always`; and no boosts of artists.
        """
        ways = ["boosts"] * bool(self.fitted[:, HEARD].any())
        ways += ["always"] * ((self.share or 0) > MOST_REPEATED) + [self.rule]
        self.by_artist, found = False, {}
        for way in ways:
            self.used = way
            found[way] = values()
        means = {way: float(ndcg(found[way]).mean()) for way in ways}
        self.used = max(reversed(ways), key=means.__getitem__)
        if self.fitted[:, OF_ARTISTS].any():
            self.by_artist = True
            found[ARTISTS] = values()
            means[ARTISTS] = float(ndcg(found[ARTISTS]).mean())
            self.by_artist = means[ARTISTS] > means[self.used]
        self.compared = means if len(means) > 1 else None
        return found[ARTISTS if self.by_artist else self.used]

    def in_force(self, *, every: bool = False) -> Float64[np.ndarray, "2 P"]:
        """The fitted boosts that are the rule, and 0 for others.

        Args:
            every: whether every track is a candidate, the previous one too. Then those of tracks heard hold, in use or
                not: they are fitted to such targets.
        """
        is_used = every or self.used == "boosts", self.by_artist
        return np.asarray(self.fitted * np.repeat(is_used, (MOST_AGES, MOST_OF_ARTISTS)))

    def boosts(self, *, every: bool = False) -> Float32[np.ndarray, "L"]:
        """What is added to the scores of tracks already heard, by age.

        Args:
            every: as in `in_force`.

        Returns:
            The boosts of the ages 1 to L, −∞ where the tracks come after all others; tracks heard longer ago get none.
        """
        if (fitted := self.in_force(every=every)[:, HEARD]).any():
            return np.asarray(fitted[0], np.float32)
        return np.full(self._length if self.used == "never" else 0, -np.inf, np.float32)

    def artist_boosts(self) -> Float32[np.ndarray, "a"]:
        """What is added to the scores of tracks without a boost of their own, by the age of the artist.

        Returns:
            The boosts of the ages 1 to a, none where artists are not boosted.
        """
        found = self.in_force()[0, OF_ARTISTS]
        return np.asarray(found[: MOST_OF_ARTISTS * found.any()], np.float32)

    def added(self, histories: Histories, values: Float64[np.ndarray, "P"], *, every: bool = False) -> csr_array:
        """Give tracks what their place has: those heard by their age, others by the age of their artist.

        Args:
            histories: what was heard.
            values: of each place.
            every: as in `in_force`.
        """
        num_artists = MOST_OF_ARTISTS if values[OF_ARTISTS].any() else 0
        line, row, place = self._places(histories, len(self.boosts(every=every)), num_artists)
        return csr_array((values[place], (line, row)), shape=(len(histories), len(self._artist_of)))

    def _places(self, histories: Histories, num_heard: int = MOST_AGES, num_artists: int = MOST_OF_ARTISTS) -> _Placed:
        """The tracks that have a place: their lines, their rows and their places."""
        rows, num = histories.newest_rows(MOST_AGES), self._tracks_of.shape[0]
        line, age = (rows[:, :num_heard] >= 0).nonzero()
        of, nth = (rows[:, :num_artists] >= 0).nonzero()
        keys, newest = np.unique(of * num + self._artist_of[rows[of, nth]], return_index=True)
        artists = csr_array((OF_ARTISTS.start + nth[newest], divmod(keys, num)), shape=(len(rows), num))
        others = csr_array(artists @ self._tracks_of)  # a track has one artist, and so one place
        of, other = np.repeat(np.arange(len(rows)), np.diff(others.indptr)), others.indices
        own, is_own = rows[line, age], np.zeros(others.shape, bool)
        is_own[line, own] = True
        left = ~is_own[of, other]
        places = np.append(age, others.data[left].astype(np.int64))
        return np.append(line, of[left]), np.append(own, other[left]).astype(np.int64), places

    def fit(self, shares_of: SharesOf, *, unit: float, adds: bool, at_once: int) -> None:
        """Fit the boosts to the training targets that were `asked` for.

        Args:
            shares_of: the probability that the model gives each track after some histories.
            unit: of the scores: they are `unit` times the logarithm of probabilities, plus a constant.
            adds: whether a probability is added besides, because the model gives many tracks none.
            at_once: number of targets whose probabilities of all tracks are in memory together.
        """
        assert self.asked is not None, "nothing was asked for"
        _, histories, following, weight = self.asked
        parts = []
        for start in range(0, len(following), at_once):
            own, targets = histories.part(start, start + at_once), following[start : start + at_once]
            found, (line, row, place) = shares_of(own).cpu().numpy(), self._places(own)
            values: tuple[Any, ...] = found[line, row], np.ones(len(line)), row == targets[line]
            at, shape = (line, place), (len(targets), OF_ARTISTS.stop)
            of_places = [csr_array((one, at), shape=shape, dtype=np.float64).toarray() for one in values]
            parts.append((*of_places, found[np.arange(len(targets)), targets]))
        shares, num, is_next, of_next = (np.concatenate(column) for column in zip(*parts, strict=True))
        factor, added = fitted_boosts(shares, num=num, is_next=is_next > 0, of_next=of_next, weight=weight, adds=adds)
        self.fitted = np.stack([unit * np.log(factor), added])
        for part in (HEARD, OF_ARTISTS):
            if weight @ is_next[:, part].any(1) < _LEAST:
                self.fitted[:, part] = 0

    def decided(self) -> dict[str, Any]:
        """What validation decided: plain values by name."""
        return {name: getattr(self, name) for name in _DECIDED}

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take what was decided before, for example on validation sessions that this model learns.

        Args:
            decided: what `decided` returned, or more.
        """
        for name in _DECIDED:
            setattr(self, name, decided[name])

    def describe(self) -> str | None:
        """One line about what `auto` chose; None if nothing was chosen."""
        if self.share is None:
            return None
        how = self.used + " and boosts of artists" * self.by_artist
        compared = ", ".join(f"{way} {ndcg:.4f}" for way, ndcg in (self.compared or {}).items())
        line = f"repeats      {self.share:.1%} of training targets were heard before in their session: {how}"
        return f"{line} (validation ndcg@10: {compared})" if compared else line

    def logged(self) -> Mapping[str, float]:
        """Report the share of repeats and what validation said of the boosts, where there are such numbers.

        Returns:
            Values by name.
        """
        if self.share is None:
            return {}
        of_ways = {f"repeats_ndcg_{way}": ndcg for way, ndcg in (self.compared or {}).items()}
        return {"repeats_share": self.share, **of_ways}

    def get_extra_state(self) -> dict[str, Any]:
        """What was decided and fitted from the training sessions, for a checkpoint."""
        return self.decided() | {"fitted": self.fitted.tolist()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self.decide(state)
        self.fitted = np.array(state["fitted"])


class Targets(NamedTuple):
    """Training targets that boosts are fitted to.

    Attributes:
        first_event: number of the first event of their sessions; a model that counts has to leave these sessions out.
        histories: what was heard before each target.
        following: rows of the targets.
        weight: of each, the share of it that was played, 1 where unknown, as in training.
    """

    first_event: int
    histories: Histories
    following: Int64[np.ndarray, "Q"]
    weight: Float64[np.ndarray, "Q"]


def newest_targets(listens: Listens, artist_of: Int64[np.ndarray, "N"]) -> Targets | None:
    """Take the targets of about the newest tenth of the training sessions: events after the first.

    A target may be the track just before it.

    Args:
        listens: the events of the training sessions.
        artist_of: row of the artist of each track.

    Returns:
        At most _NUM_FITTED of them; None where those that repeat a track or an artist of their session weigh less than
        _LEAST.
    """
    num_events = len(listens.session)
    first = int(np.searchsorted(listens.session, listens.session[num_events * 9 // 10])) if num_events else 0
    session, track, share = (column[first:] for column in (listens.session, listens.track, listens.played_ratio))
    place = np.arange(len(session)) - np.searchsorted(session, session)
    targets = np.flatnonzero(place)
    chosen = np.sort(np.random.default_rng(0).permutation(len(targets))[:_NUM_FITTED])
    event, before = targets[chosen], targets[chosen] - 1
    following, previous, weight = track[event], track[before], np.nan_to_num(share[event].astype(np.float64), nan=1.0)
    histories = Histories(tracks=track, played_ratio=share, last=before, length=place[event], previous=previous)
    heard = histories.newest_rows(MOST_AGES)
    is_repeat = ((heard >= 0) & (artist_of[heard] == artist_of[following][:, None])).any(1)
    is_enough = first > 0 and weight[is_repeat].sum() >= _LEAST
    return Targets(first, histories, following, weight) if is_enough else None


def fitted_boosts(
    shares: Float64[np.ndarray, "Q P"],
    *,
    num: Real[np.ndarray, "Q P"],
    is_next: Bool[np.ndarray, "Q P"],
    of_next: Float[np.ndarray, "Q"],
    weight: Float64[np.ndarray, "Q"],
    adds: bool,
) -> tuple[Float64[np.ndarray, "P"], Float64[np.ndarray, "P"]]:
    """Fit what its place does to the probability of a track: p becomes (f·p + a) / sum.

    Maximum likelihood: the targets that are expected at each place then are as many as there are. A tenth of a target,
    as the model expects it, is added to each group of places, which matters where there are nearly none. Each step
    increases the likelihood: it bounds the logarithm of the sum by a line, as in iterative scaling, and divides the
    targets of a place between f·p and a, as in expectation maximisation.

    Args:
        shares: the probability that the model gives the tracks of each place together.
        num: how many tracks these are.
        is_next: where one of them is the target.
        of_next: the probability that the model gives the target.
        weight: of each target.
        adds: whether a is fitted; otherwise it is 0.

    Returns:
        f, above 0, and a, at least 0, of each place.
    """
    groups = _GROUPS[: shares.shape[1]]
    members = np.eye(groups[-1] + 1)[groups]  # a row for each place, a column for each group
    mass, num_tracks, is_here = shares @ members, num @ members, is_next @ members
    at_next, by_next = weight[:, None] * is_here, of_next[:, None] * is_here
    others = (1 - shares.sum(1)).clip(1e-9)
    factor, added = np.ones(members.shape[1]), np.full(members.shape[1], 0.001 if adds else 0.0)
    for _ in range(_ROUNDS):
        once = weight / (others + mass @ factor + num_tracks @ added)
        by_model = at_next * np.divide(factor * by_next, factor * by_next + added + 1e-30)
        factor = (by_model.sum(0) + _PRIOR) / (once @ mass + _PRIOR)
        if adds:
            added = (at_next - by_model).sum(0) / (once @ num_tracks + _PRIOR)
    return factor[groups], added[groups]


def boosted_shares(scores: csr_array, factor: csr_array, added: csr_array) -> csr_array:
    """Boost scores that are in proportion to probabilities.

    Args:
        scores: of all tracks, B × N, at least 0.
        factor: what the share of each track is multiplied by, less 1.
        added: what is added to the share.
    """
    shares = shares_of(scores)
    return csr_array((shares + shares.multiply(factor) + added).astype(np.float32))


def tracks_of(artist_of: Int64[np.ndarray, "N"]) -> csr_array:
    """1 for the tracks (columns) of each artist (rows)."""
    return csr_array((np.ones(len(artist_of), np.float32), (artist_of, np.arange(len(artist_of)))))


def shares_of(scores: csr_array) -> csr_array:
    """Divide the scores of each line by their sum.

    Args:
        scores: seldom below 0; a line with entries has some that are not 0.
    """
    shares = csr_array(scores, copy=True)
    shares.data /= np.repeat(abs(shares).sum(1), np.diff(shares.indptr))
    return shares


def share_of_repeats(listens: Listens) -> float:
    """Share of the events after the first of a session that repeat a track of it, other than the track directly before.

    Returns:
        The share, in [0, 1].
    """
    session, track = listens.session, listens.track
    is_target = (session[1:] == session[:-1]) & (track[1:] != track[:-1])
    is_again = pd.DataFrame({"session": session, "track": track}).duplicated().to_numpy()[1:]
    return float((is_again & is_target).sum() / max(1, is_target.sum()))
