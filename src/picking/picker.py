"""How the next track of a session is picked, and with which probability.

Scores only order a list; probabilities depend on the place in it. The service, the simulator, the listening test and
the estimates from logs all call this.

S sessions, K candidates of a list, T tracks that a session has heard, R tracks of a source, A tracks that are asked
for, N tracks of the catalogue, P popular tracks, Q lists.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int32, Int64

from segue.catalog import Catalog
from segue.picking.arm import Arm, OwnRule, checked_probabilities, own_rule
from segue.picking.artist_tracks import ArtistTracks
from segue.picking.listener_scores import Pasts
from segue.picking.places import PICKS, Candidates, Chances, Each, Heard, Shares, are_in, shares_of, uniform_place
from segue.picking.session_search import SessionSearch
from segue.runs.profiles import FILE as PROFILES
from segue.runs.profiles import Profiles
from segue.runs.recommendations import Recommendations, lists_of
from segue.runs.session_vectors import FILE, SessionVectors

NUM_POPULAR = 100
"""Most played tracks among which `popular` picks, as in the service of 2023."""


def draw(chances: Chances, tracks: Candidates, u: Float64[np.ndarray, "S"]) -> tuple[Each, Float64[np.ndarray, "S"]]:
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
    lines, reached = np.arange(len(u)), chances.cumsum(1)
    place = (reached > (u * reached[:, -1])[:, None]).argmax(1)
    found = chances[lines, place]
    return np.where(found > 0, tracks[lines, place], -1).astype(np.int64), found


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


class Choices(NamedTuple):
    """The probabilities of the next track of each session.

    Attributes:
        asked: of the tracks that were asked for, in [0, 1]; 0 for none.
        tracks: rows that may be picked; -1 fills up.
        probabilities: of each of them.
        rest: probability that any track of the catalogue is drawn instead.
    """

    asked: Float64[np.ndarray, "S A"]
    tracks: Int64[np.ndarray, "S C"]
    probabilities: Float64[np.ndarray, "S C"]
    rest: Float64[np.ndarray, "S"]


@dataclass(eq=False, kw_only=True)
class Picker:
    """Picks the next track of sessions of an arm.

    Args:
        arm: how it recommends.
        artists: the tracks of each artist.
        popular: distinct rows of the tracks of `popular`, also as a fallback.
        lists: rows of the list of each track, or of each of `users`; -1 fills up.
        users: keys of the users of the lists (`catalog.key_of`), ascending; None for lists of tracks.
        search: finds the best tracks, if the session is a part of the query.
        before: what the run knew of listeners, with the keys of tracks; None where there is nothing.
        own: the rule of an arm of one's own.
    """

    arm: Arm
    artists: ArtistTracks
    popular: Int[np.ndarray, "P"] = field(default_factory=lambda: np.empty(0, np.int64))
    lists: Int32[np.ndarray, "Q K"] = field(default_factory=lambda: np.empty((0, 0), np.int32))
    users: Int64[np.ndarray, "Q"] | None = None
    search: SessionSearch | None = None
    before: Profiles | None = None
    own: OwnRule | None = None

    @classmethod
    def read(
        cls,
        arm: Arm,
        file: Path | None,
        catalog: Catalog,
        popular: Int[np.ndarray, "P"],
        given: Recommendations | None = None,
    ) -> "Picker":
        """Read what an arm recommends from.

        Args:
            arm: the arm.
            file: its `recommendations.jsonl`, with `vectors.npz` and `profiles.npz` beside it; None without lists.
            catalog: of the tracks that are recommended.
            popular: distinct rows of the most played tracks.
            given: what is in the file, if that was read.

        Raises:
            InputError: a file cannot be read or is of another catalogue, or the class of the arm cannot be used.
        """
        lists = Recommendations.read(file, catalog) if file is not None and given is None else given
        rows = np.full((len(catalog), 0), -1, np.int32) if lists is None else lists.rows.astype(np.int32)
        search, before = None, None
        if file is not None and arm.is_of_session:
            search = SessionSearch(arm, SessionVectors.read(file.with_name(FILE), catalog), rows, catalog.artist_of)
            if search.knows_listeners and (path := file.with_name(PROFILES)).is_file():
                before = Profiles.read(path)
        catalogue = {"lists": rows, "artist_of": catalog.artist_of, "track_ids": catalog.track_ids}
        return cls(
            arm=arm,
            artists=ArtistTracks.of(catalog.artist_of),
            popular=popular[:NUM_POPULAR],
            lists=rows,
            users=None if lists is None else lists.users,
            search=search,
            before=before,
            own=own_rule(arm.policy, **catalogue) if arm.is_own else None,
        )

    def __post_init__(self) -> None:
        self.needs_session = self.search is not None or self.arm.avoids_heard or self.arm.artist_gap > 0
        """Whether other tracks of the session than the last one matter."""
        self._place_popular = np.full(len(self.artists.artist_of) + 1, -1)  # the last one is for -1
        self._place_popular[self.popular] = np.arange(len(self.popular))

    @property
    def num_kept(self) -> int:
        """How many candidates of a search are needed.

        Where the best one is always picked it suffices; where artists are kept apart, the best may be any of them.
        Otherwise they are as many as a list has.
        """
        if self.arm.pick != "ranked" or self.arm.exploration:
            return int(self.lists.shape[1])
        return len(self.lists) if self.arm.artist_gap else 1

    def candidates(
        self, heard: Heard, shares: Shares, users: Each, past: Pasts | None = None, familiar: float | None = None
    ) -> Candidates:
        """The list of each session, best first; of no columns where there are none.

        Args:
            heard: what each session has heard.
            shares: share of each that was played; of an arm without `context=session` anything.
            users: key of the user of each session; of lists of users only.
            past: of the listener of each session, if it is known.
            familiar: another one than that of the arm.
        """
        if self.search is not None:
            return self.search.best(heard, shares, self.num_kept, past, familiar)
        if self.users is not None:
            return lists_of(users, self.users, self.lists)
        return self.lists[heard[:, 0]] if self.arm.has_lists else np.empty((len(heard), 0), np.int32)

    def pick_next(
        self, candidates: Candidates, heard: Heard, rng: np.random.Generator, shares: Shares | None = None
    ) -> Picked:
        """Pick the next track of each session.

        Args:
            candidates: the list of each session, best first; -1 fills up. Of no columns where the arm has no lists.
            heard: what each session has heard; of an arm of one's own the last plays of the listener, over sessions.
            rng: draws the tracks.
            shares: share of each of these plays, for an arm of one's own.

        Raises:
            InputError: the class of an arm of one's own returned what it must not.
        """
        num = len(heard)
        found, left = Picked(np.full(num, -1), np.zeros(num), np.zeros(num, np.int64)), np.arange(num)
        u = rng.random(num)  # one is enough: a session uses it for the source that has a track
        for number, source in enumerate(self.arm.sources):
            rows, chances = self._drawn(source, candidates, heard, shares, u)
            found.rows[left], found.propensities[left], found.sources[left] = rows, chances, number
            if not (is_left := rows < 0).any():
                break
            left, candidates, heard, shares, u = left[is_left], candidates[is_left], heard[is_left], None, u[is_left]
        return found

    def pick_one(self, candidates: Int[np.ndarray, "K"], last: int, rng: np.random.Generator) -> tuple[int, float, int]:
        """As `pick_next`, for one session, where only its last track matters.

        The arm has `pick=uniform` and avoids nothing (`needs_session`): all tracks of a source are alike probable. No
        arrays of one session are made: they would take as long as all else that `/next` does for such a request.

        Args:
            candidates: the list; -1 fills it up.
            last: row of the last track.
            rng: as for `pick_next`, which picks the same from the same numbers.

        Returns:
            Row, propensity and source.
        """
        u = rng.random()
        for number, source in enumerate(self.arm.sources):
            if source == "list":
                tracks = candidates if len(candidates) and candidates[-1] >= 0 else candidates[candidates >= 0]
            elif source == "artist":
                own = self.artists.by(int(self.artists.artist_of[last]))
                tracks = own[own != last]
            else:
                tracks = self.popular if source == "popular" else self.artists.by_artist
            if len(tracks):
                return int(tracks[int(u * len(tracks))]), 1 / len(tracks), number
        raise AssertionError("a catalogue has tracks that may be picked")

    def row_of(
        self, source: str, candidates: Candidates, heard: Heard, shares: Shares | None = None
    ) -> tuple[Int[np.ndarray, "S R"], Float64[np.ndarray, "S R"]]:
        """The tracks of a source with their probabilities, from which a draw from a list and its propensity are read.

        The other sources are long, and all of their tracks alike probable: these are drawn without such a line.

        Args:
            source: one of `Arm.sources`; of `random` it is a line of all tracks.
            candidates: as for `pick_next`.
            heard: as for `pick_next`.
            shares: as for `pick_next`.

        Returns:
            Rows, and probabilities that add up to 1 for a session, or are all 0 where no track is left.
        """
        if source == "list" and self.own is not None:
            assert shares is not None
            found = self.own.probabilities(heard[:, : self.own.num_plays], shares[:, : self.own.num_plays])
            return checked_probabilities(self.arm.policy, found, len(heard), len(self.artists.artist_of))
        if source == "list":
            return candidates, self._of_list(candidates, heard)
        tracks, first, num, left_out = self._equal(source, heard)
        places = first[:, None] + np.arange(num.max(initial=0))
        is_open = (places < (first + num)[:, None]) & ~are_in(places, left_out)
        return tracks.take(places, mode="clip"), shares_of(is_open.astype(np.float64))

    def choices(
        self, asked: Int[np.ndarray, "S A"], candidates: Candidates, heard: Heard, shares: Shares | None = None
    ) -> Choices:
        """Compute the probability with which `pick_next` picks each track.

        Args:
            asked: rows of tracks for each session; -1 for none.
            candidates: as for `pick_next`.
            heard: as for `pick_next`.
            shares: as for `pick_next`.
        """
        rest, found = np.ones(len(heard)), [(np.empty((len(heard), 0), np.int64), np.empty((len(heard), 0)))]
        for source in self.arm.sources[:-1]:
            if rest.any():
                rows, of_source = self.row_of(source, candidates, heard, shares)
                found.append((rows, of_source * rest[:, None]))
                rest *= ~of_source.any(1)
        tracks, chances = (np.concatenate(both, 1) for both in zip(*found, strict=True))
        _, _, num, left_out = self._equal("random", heard)
        places = self.artists.place[asked]
        is_left = (places >= 0) & ~are_in(places, left_out)
        of_any = is_left * (rest / (num - (left_out >= 0).sum(1)))[:, None]
        of_asked = ((asked[:, :, None] == tracks[:, None]) * chances[:, None]).sum(2)
        return Choices(of_asked + of_any, tracks, chances, rest)

    def _equal(self, source: str, heard: Heard) -> tuple[Int[np.ndarray, "n"], Each, Each, Int[np.ndarray, "S t"]]:
        """Where all tracks of a source have the same probability: an array, of which each session has a range.

        Returns:
            The array; the first place of the range of each session, and its length; and the places in it that are left
            out, ascending, with -1 for none. A session that has heard all tracks may hear any again.
        """
        tracks, place_of, num = self.artists.by_artist, self.artists.place, len(heard)
        if source == "popular":
            tracks, place_of = self.popular, self._place_popular
        first, ends = np.zeros(num, np.int64), np.full(num, len(tracks))
        if source == "artist":
            own = self.artists.artist_of[heard[:, 0]]
            first, ends = self.artists.starts[own], self.artists.ends[own]
        avoided = heard if self.arm.avoids_heard else heard[:, : int(source == "artist")]
        if not avoided.shape[1]:
            return tracks, first, ends - first, avoided
        places = np.sort(place_of[avoided], axis=1)
        is_out = (places >= first[:, None]) & (places < ends[:, None])
        is_out[:, 1:] &= places[:, 1:] > places[:, :-1]  # each track once
        is_out &= (source != "random") | (is_out.sum(1, keepdims=True) < len(tracks))
        return tracks, first, ends - first, np.where(is_out, places, -1)

    def _of_list(self, tracks: Candidates, heard: Heard) -> Chances:
        arm, artist_of, is_open = self.arm, self.artists.artist_of, tracks >= 0
        if arm.avoids_heard:
            is_open &= ~are_in(tracks, heard)
        if arm.artist_gap:
            recent = heard[:, : arm.artist_gap]
            spaced = is_open & ~are_in(artist_of[tracks], np.where(recent >= 0, artist_of[recent], -1))
            is_open = np.where(spaced.any(1, keepdims=True), spaced, is_open)
        chances = shares_of(PICKS[arm.pick](is_open))
        if arm.exploration:
            chances = (1 - arm.exploration) * chances + arm.exploration * shares_of(is_open.astype(np.float64))
        return chances

    def _drawn(
        self, source: str, candidates: Candidates, heard: Heard, shares: Shares | None, u: Float64[np.ndarray, "S"]
    ) -> tuple[Int[np.ndarray, "S"], Float64[np.ndarray, "S"]]:
        """A track of a source and its probability; -1 and 0 where it has none left."""
        if source == "list":
            tracks, chances = self.row_of(source, candidates, heard, shares)
            rows, found = draw(chances, tracks, u)
            if self.own is not None:  # a track may be there several times
                found = np.where(rows >= 0, (chances * (tracks == rows[:, None])).sum(1), 0.0)
            return rows, found
        # without a line of probabilities: sources are long
        tracks, first, num, left_out = self._equal(source, heard)
        if len(tracks) and not left_out.shape[1]:
            return tracks[first + uniform_place(u, num)], 1 / num
        num_left = num - (is_out := left_out >= 0).sum(1)
        place = first + uniform_place(u, num_left)
        # the n-th track that is left: each one left out at or before it moves it by one, as places ascend
        place += (is_out & (left_out - is_out.cumsum(1) < place[:, None])).sum(1)
        rows, found = np.full(len(heard), -1), num_left > 0
        rows[found] = tracks[place[found]]
        return rows, found / np.maximum(num_left, 1)
