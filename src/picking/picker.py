"""How the next track of a session is picked, and with which probability.

The service, the simulator, the listening test and the estimates from logs all call this. S sessions, K candidates of a
list, T tracks that a session has heard, M new tracks, N tracks of the catalogue, P popular tracks, Q lists.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int32, Int64

from segue.catalog import Catalog
from segue.errors import InputError
from segue.picking.arm import Arm, OwnRule, check_probabilities, own_rule
from segue.picking.artist_tracks import ArtistTracks
from segue.picking.listener_scores import Pasts
from segue.picking.places import PICKS, are_in, shares_of, uniform_place
from segue.picking.session_search import SessionSearch, search_of
from segue.runs.profiles import FILE as PROFILES
from segue.runs.profiles import Profiles
from segue.runs.recommendations import Recommendations, lists_of
from segue.runs.session_vectors import FILE, SessionVectors

NUM_POPULAR = 100
"""Most played tracks among which `popular` picks, as in the service of 2023."""
TRIES = 20
"""How often any track is drawn at most, until it is one that the session has not heard."""


def probabilities(
    arm: Arm,
    tracks: Int[np.ndarray, "S K"],
    heard: Int[np.ndarray, "S T"],
    artist_of: Int[np.ndarray, "N"],
    is_new: Bool[np.ndarray, "N_1"] | None = None,
) -> Float64[np.ndarray, "S K"]:
    """The probability of each track of lists: the draw and the logged propensity are both read from it.

    Args:
        arm: how it picks from lists.
        tracks: the list of each session, best first; -1 fills up.
        heard: rows of the tracks that each session has heard, the last one first; -1 for tracks that are not in the
            catalogue, and after the first one.
        artist_of: row of the artist of each track.
        is_new: whether each track is new, with a last False for -1; only if the arm explores.

    Returns:
        Those of a session add up to 1, or are all 0 where no track is left.
    """
    rule, is_open = PICKS[arm.pick], tracks >= 0
    if not rule.may_repeat:
        is_open &= ~are_in(tracks, heard)
    if arm.artist_gap:
        recent = heard[:, : arm.artist_gap]
        spaced = is_open & ~are_in(artist_of[tracks], np.where(recent >= 0, artist_of[recent], -1))
        is_open = np.where(spaced.any(1, keepdims=True), spaced, is_open)
    chances = shares_of(rule.weights(is_open))
    if is_new is not None:
        explored = shares_of(rule.weights(is_open & is_new[tracks]))
        share = arm.exploration * explored.any(1, keepdims=True)
        chances = (1 - share) * chances + share * explored
    return chances


def draw(
    chances: Float64[np.ndarray, "S K"], tracks: Int[np.ndarray, "S K"], u: Float64[np.ndarray, "S"]
) -> tuple[Int64[np.ndarray, "S"], Float64[np.ndarray, "S"]]:
    """Draw a track of each session.

    Args:
        chances: the probability of each track; of a session they add up to 1, or are all 0.
        tracks: their rows.
        u: one random number for each session, uniform in [0, 1).

    Returns:
        Row and probability of each; -1 and 0 where there is none.
    """
    if not chances.shape[1]:
        return np.full(len(u), -1), np.zeros(len(u))
    lines = np.arange(len(u))
    place = chances.argmax(1)
    found = chances[lines, place]
    if ((found != 1) & (found != 0)).any():  # the sums take up to forty times as long as the certain ones
        reached = chances.cumsum(1)
        place = np.minimum((reached <= (u * reached[:, -1])[:, None]).sum(1), chances.shape[1] - 1)
        found = chances[lines, place]
    return np.where(found > 0, tracks[lines, place], -1).astype(np.int64), found


def new_rows(plays: Int64[np.ndarray, "N"] | None, exploration_plays: int, where: str) -> Int64[np.ndarray, "M"]:
    """The tracks that exploration picks from.

    Args:
        plays: number of plays of each track in training; None where the lists do not say.
        exploration_plays: tracks with fewer are new.
        where: names the lists in the message.

    Returns:
        Their rows, ascending.

    Raises:
        InputError: the plays are not known.
    """
    if plays is None:
        raise InputError(
            f"{where}: exploration needs to know which tracks are new, and its lines have no plays, as "
            "lists of users; train again, or leave exploration= out"
        )
    return np.flatnonzero(plays < exploration_plays)


def distinct(rows: Int[np.ndarray, "P"]) -> Int[np.ndarray, "p"]:
    """Each popular track once, so that each has the same probability; one that the catalogue does not have is left out.

    Args:
        rows: of the most played tracks, in their order, which is kept; -1 for a track that the catalogue does not have.
    """
    return np.array([row for row in dict.fromkeys(rows.tolist()) if row >= 0], rows.dtype)


class Picked(NamedTuple):
    """The next track of each session.

    Attributes:
        rows: the tracks.
        propensities: the probability with which each was picked, in (0, 1].
        sources: number of the source that it came from, in `Arm.sources`; all but the first one are fallbacks.
    """

    rows: Int64[np.ndarray, "S"]
    propensities: Float64[np.ndarray, "S"]
    sources: Int64[np.ndarray, "S"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Choices:
    """The probabilities of the tracks, for S sessions.

    Args:
        tracks: rows that may be picked; -1 fills up.
        probabilities: of each of them.
        rest: probability that any track of the catalogue is drawn instead.
        avoided: rows after which such a draw is repeated, -1 fills up; none has no columns.
        artists: the tracks that may be drawn.
    """

    tracks: Int64[np.ndarray, "S C"]
    probabilities: Float64[np.ndarray, "S C"]
    rest: Float64[np.ndarray, "S"]
    avoided: Int[np.ndarray, "S T"]
    artists: ArtistTracks

    def of(self, asked: Int64[np.ndarray, "S Q"]) -> Float64[np.ndarray, "S Q"]:
        """Compute the probability of given tracks.

        Args:
            asked: rows of tracks for each session; -1 for none.

        Returns:
            In [0, 1]; 0 for none.
        """
        found, asked = np.zeros(asked.shape), self.artists.without_kept(asked)
        for track, probability in zip(self.tracks.T, self.probabilities.T, strict=True):
            found += (asked == track[:, None]) * probability[:, None]
        drawn = np.flatnonzero(self.rest)
        found[drawn] += self.rest[drawn, None] * _of_any(asked[drawn], self.avoided[drawn], self.artists.num_open)
        return np.where(asked >= 0, found, 0.0)


def _of_any(
    rows: Int64[np.ndarray, "S Q"], avoided: Int[np.ndarray, "S T"], num_tracks: int
) -> Float64[np.ndarray, "S Q"]:
    """Probability of given tracks where any track is drawn, up to `TRIES` times until it is none that is avoided."""
    if not avoided.shape[1]:
        return np.full(rows.shape, 1 / num_tracks)
    ordered = np.sort(avoided, axis=1)
    num_heard = (ordered[:, 0] >= 0) + ((np.diff(ordered, axis=1) != 0) & (ordered[:, 1:] >= 0)).sum(1)
    share = num_heard / num_tracks  # of the tracks that are avoided; the last draw counts even if it is one of them
    unheard, heard = (1 - share**TRIES) / np.maximum(num_tracks - num_heard, 1), share ** (TRIES - 1) / num_tracks
    return np.asarray(np.where(are_in(rows, avoided), heard[:, None], unheard[:, None]))


@dataclass(frozen=True, eq=False, kw_only=True)
class Picker:
    """Picks the next track of sessions of an arm.

    Args:
        arm: how it recommends.
        artists: the tracks of each artist.
        popular: distinct rows of the tracks of `popular`, also as a fallback.
        lists: rows of the list of each track, or of each of `users`; -1 fills up.
        users: keys of the users of the lists (`catalog.key_of`), ascending; None for lists of tracks.
        new: rows of the new tracks, if the arm explores.
        search: finds the best tracks, if the session is a part of the query.
        before: what the run knew of listeners, with the keys of tracks; None where there is nothing.
        own: the rule of an arm of one's own.
    """

    arm: Arm
    artists: ArtistTracks
    popular: Int[np.ndarray, "P"] = field(default_factory=lambda: np.empty(0, np.int64))
    lists: Int32[np.ndarray, "Q K"] = field(default_factory=lambda: np.empty((0, 0), np.int32))
    users: Int64[np.ndarray, "Q"] | None = None
    new: Int64[np.ndarray, "M"] = field(default_factory=lambda: np.empty(0, np.int64))
    search: SessionSearch | None = None
    before: Profiles | None = None
    own: OwnRule | None = None

    @classmethod
    def read(cls, arm: Arm, file: Path | None, catalog: Catalog, popular: Int[np.ndarray, "P"]) -> "Picker":
        """Read what an arm recommends from.

        Args:
            arm: the arm.
            file: its `recommendations.jsonl`, with `vectors.npz` and `profiles.npz` beside it; None without lists.
            catalog: of the tracks that are recommended.
            popular: distinct rows of the most played tracks.

        Raises:
            InputError: a file cannot be read or is of another catalogue, or the class of the arm cannot be used.
        """
        made = cls(arm=arm, artists=ArtistTracks.of(catalog.artist_of), popular=popular[:NUM_POPULAR])
        lists, users, rows = None, None, np.full((len(catalog), 0), -1, np.int32)
        if file is not None:
            lists = Recommendations.read(file, catalog)
            rows, users = lists.rows.astype(np.int32), lists.users
        given = {**vars(made), "lists": rows, "users": users}
        if arm.is_own:
            if users is not None:
                raise InputError(f"policy={arm.policy} needs lists of tracks, and {file} has lists of users")
            of_tracks = {"artist_of": catalog.artist_of, "track_ids": catalog.track_ids}
            given["own"] = own_rule(arm.policy, lists=rows, **of_tracks)
        if arm.exploration and lists is not None:
            given["new"] = new_rows(lists.plays, arm.exploration_plays, str(file))
        if arm.is_of_session and file is not None:
            vectors, before = SessionVectors.read(file.with_name(FILE), catalog), None
            if arm.context == "listener" and (path := file.with_name(PROFILES)).is_file():
                given["before"] = before = Profiles.read(path)
            known = before.in_rows(catalog) if before and arm.familiar < 1 else None
            given["search"] = search_of(arm, vectors, rows, catalog.artist_of, known)
        return cls(**given)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Where tracks come from, in this order; see `Arm.sources`."""
        return self.arm.sources

    @cached_property
    def avoids_heard(self) -> bool:
        """Whether no track that the session has heard is picked."""
        return self.arm.avoids_heard

    @cached_property
    def needs_session(self) -> bool:
        """Whether other tracks of the session than the last one matter."""
        return self.search is not None or self.avoids_heard or (self.arm.has_lists and self.arm.artist_gap > 0)

    @cached_property
    def num_kept(self) -> int:
        """How many candidates of a search are needed.

        Where the best one is always picked it suffices; where artists are kept apart, the best may be any of them.
        Otherwise they are as many as a list has.
        """
        assert self.search is not None
        if self.arm.pick != "ranked" or self.arm.exploration:
            return int(self.lists.shape[1])
        return self.search.most_candidates if self.arm.artist_gap else 1

    def candidates(
        self,
        heard: Int64[np.ndarray, "S T"],
        shares: Float[np.ndarray, "S h"],
        users: Int64[np.ndarray, "S"],
        past: Pasts | None = None,
        now_ms: Int64[np.ndarray, "S"] | None = None,
        familiar: float | None = None,
    ) -> Int[np.ndarray, "S K"]:
        """The list of each session, best first; of no columns where there are none.

        Args:
            heard: as for `probabilities`.
            shares: share of each that was played; of an arm without `context=session` anything.
            users: key of the user of each session; of lists of users only.
            past: of the listener of each session, if it is known.
            now_ms: the time, for each session; with `past`.
            familiar: another one than that of the arm.
        """
        if self.search is not None:
            share = self.arm.familiar if familiar is None else familiar
            return self.search.best(heard, shares, self.num_kept, past, now_ms, float(share))
        if self.users is not None:
            return lists_of(users, self.users, self.lists)
        return self.lists[heard[:, 0]] if self.arm.has_lists else np.empty((len(heard), 0), np.int32)

    def pick_next(
        self,
        candidates: Int[np.ndarray, "S K"],
        heard: Int[np.ndarray, "S T"],
        rng: np.random.Generator,
        shares: Float[np.ndarray, "S T"] | None = None,
    ) -> Picked:
        """Pick the next track of each session.

        Args:
            candidates: see `candidates`.
            heard: as for `probabilities`; of an arm of one's own, the last plays of the listener, over sessions.
            rng: draws the tracks.
            shares: share of each of these plays, for an arm of one's own.
        """
        num = len(heard)
        found, left = Picked(np.full(num, -1), np.zeros(num), np.zeros(num, np.int64)), np.arange(num)
        for number, source in enumerate(self.sources):
            rows, chances = self._drawn(source, candidates, heard, shares, rng)
            found.rows[left], found.propensities[left], found.sources[left] = rows, chances, number
            if not (is_left := rows < 0).any():
                break
            left, candidates, heard, shares = left[is_left], candidates[is_left], heard[is_left], None
        return found

    def pick_one(self, candidates: Int[np.ndarray, "K"], last: int, rng: np.random.Generator) -> tuple[int, float, int]:
        """As `pick_next`, for one session, where only its last track matters, without exploration.

        Without arrays of one session: they would take longer than all else that `/next` does for such a request.

        Args:
            candidates: the list; -1 fills it up.
            last: row of the last track.
            rng: as for `pick_next`, which picks the same from the same numbers.

        Returns:
            Row, propensity and source.
        """
        for number, source in enumerate(self.sources):
            if source == "list":
                tracks = candidates if len(candidates) and candidates[-1] >= 0 else candidates[candidates >= 0]
                u, num = rng.random(), len(tracks)
                if num:
                    return int(tracks[int(u * num)]), 1 / num, number
            elif source == "artist":
                rows, chances = self._drawn(source, _NO_LIST, np.array([[last]]), None, rng)
                if rows[0] >= 0:
                    return int(rows[0]), float(chances[0]), number
            elif source == "popular" and (num := len(self.popular)):
                return int(self.popular[rng.integers(num)]), 1 / num, number
        row = rng.integers(num := self.artists.num_open)
        return int(row if self.artists.is_kept is None else self.artists.by_artist[row]), 1 / num, number

    def row_of(
        self,
        source: str,
        candidates: Int[np.ndarray, "S K"],
        heard: Int[np.ndarray, "S T"],
        shares: Float[np.ndarray, "S T"] | None = None,
    ) -> tuple[Int[np.ndarray, "S C"], Float64[np.ndarray, "S C"]]:
        """The tracks of a source with their probabilities; all 0 where none is left.

        Args:
            source: one of `Arm.sources` but `random`.
            candidates: as for `pick_next`.
            heard: as for `pick_next`.
            shares: as for `pick_next`.
        """
        artist_of = self.artists.artist_of
        if source == "list":
            if self.own is not None:
                assert shares is not None
                last = slice(self.own.num_plays)
                found = self.own.probabilities(heard[:, last], shares[:, last])
                check_probabilities(self.arm.policy, *found, num_listeners=len(heard), num_tracks=len(artist_of))
                return found
            return candidates, probabilities(self.arm, candidates, heard, artist_of, self._is_new)
        if source == "artist":
            most = self.artists.num_others(heard[:, 0]).max(initial=0)
            rows = self.artists.after(heard[:, 0], np.arange(1, most + 1)[None])
        else:
            rows = np.broadcast_to(self.popular, (len(heard), len(self.popular)))
        is_open = rows >= 0
        return rows, shares_of((is_open & ~are_in(rows, heard) if self.avoids_heard else is_open).astype(float))

    def choices(
        self,
        candidates: Int[np.ndarray, "S K"],
        heard: Int[np.ndarray, "S T"],
        shares: Float[np.ndarray, "S T"] | None = None,
    ) -> Choices:
        """Compute the probability with which `pick_next` picks each track.

        Args:
            candidates: as for `pick_next`.
            heard: as for `pick_next`.
            shares: as for `pick_next`.
        """
        num, left = len(heard), np.arange(len(heard))
        tracks, chances = [np.empty((num, 0), np.int64)], [np.empty((num, 0))]
        for source in self.arm.sources[:-1]:
            rows, found = self.row_of(source, candidates[left], heard[left], None if shares is None else shares[left])
            tracks.append(np.full((num, rows.shape[1]), -1))
            chances.append(np.zeros(tracks[-1].shape))
            tracks[-1][left], chances[-1][left] = rows, found
            left = left[~found.any(1)]
        rest = np.bincount(left, minlength=num).astype(np.float64)
        both = {"tracks": np.concatenate(tracks, 1), "probabilities": np.concatenate(chances, 1)}
        return Choices(**both, rest=rest, avoided=self._avoided(heard), artists=self.artists)

    @cached_property
    def _is_new(self) -> Bool[np.ndarray, "N_1"] | None:
        if not self.arm.exploration:
            return None
        is_new = np.zeros(len(self.artists.artist_of) + 1, bool)
        is_new[self.new] = True
        return is_new

    def _avoided(self, heard: Int[np.ndarray, "S T"]) -> Int[np.ndarray, "S t"]:
        return self.artists.without_kept(heard) if self.avoids_heard else heard[:, :0]

    def _drawn(
        self,
        source: str,
        candidates: Int[np.ndarray, "S K"],
        heard: Int[np.ndarray, "S T"],
        shares: Float[np.ndarray, "S T"] | None,
        rng: np.random.Generator,
    ) -> tuple[Int[np.ndarray, "S"], Float64[np.ndarray, "S"]]:
        """A track of a source and its probability; -1 and 0 where it has none left."""
        num = len(heard)
        if source == "random":  # any track, as far as some draws find one that is not avoided
            avoided, num_tracks = self._avoided(heard), self.artists.num_open
            rows, again = self.artists.drawn(rng.integers(num_tracks, size=num)), np.arange(num)
            for _ in range(TRIES - 1):
                again = again[are_in(rows[again, None], avoided[again])[:, 0]]
                if not len(again):
                    break
                rows[again] = self.artists.drawn(rng.integers(num_tracks, size=len(again)))
            return rows, _of_any(rows[:, None], avoided, num_tracks)[:, 0]
        if source == "list" or self.avoids_heard:
            tracks, chances = self.row_of(source, candidates, heard, shares)
            rows, found = draw(chances, tracks, rng.random(num))
            if self.own is not None:  # a track may be there several times
                found = np.where(rows >= 0, (chances * (tracks == rows[:, None])).sum(1), 0.0)
            return rows, found
        # one draw suffices: sources are long, and all their tracks have the same probability
        if source == "artist":
            num_others = self.artists.num_others(heard[:, 0])
            steps = 1 + uniform_place(rng.random(num), num_others)
            chances = np.where(num_others > 0, 1 / np.maximum(num_others, 1), 0.0)
            return self.artists.after(heard[:, 0], steps[:, None])[:, 0], chances
        if not (num_popular := len(self.popular)):
            return np.full(num, -1), np.zeros(num)
        return self.popular[rng.integers(num_popular, size=num)], np.full(num, 1 / num_popular)


_NO_LIST = np.empty((1, 0), np.int32)
