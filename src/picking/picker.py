"""How the next track of a session is picked: from a list, among new tracks, or as a fallback; and its probability.

The service, the simulator, the listening test and the estimates from logs all call this. S sessions, K candidates of a
list, T tracks that a session has heard, M new tracks, N tracks of the catalogue, O of them may be picked, A artists, P
popular tracks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from segue.errors import InputError
from segue.picking.places import PICKS, are_in, at, uniform_place
from segue.settings import Setting, settings

LISTS = ("lists", "user_lists")
"""The policies that recommend from lists: from that of the last track, or from that of the user."""
# The source of each policy.
_SOURCES = {**dict.fromkeys(LISTS, "list"), "random": "random", "popular": "popular", "sticky_artist": "artist"}
POLICIES = tuple(_SOURCES)
FALLBACKS = {"artist": ("artist", "popular", "random"), "random": ("random",)}
"""Used in this order where a list has no candidate left: another track of the artist, a popular track, any track; or
any track at once, as in the service of 2026."""
NUM_POPULAR = 100
"""Most played tracks among which `popular` picks, as in the service of 2023."""
LEARNED: Literal["learned"] = "learned"
"""`familiar=` where the scores alone decide how much of what is played is known; the same as 1."""
TRIES = 20
"""How often any track is drawn at most, until it is one that the session has not heard."""


def check_picking(given: Mapping[str, Any], where: str = "") -> None:
    """Refuse settings of a picking that are out of range.

    Args:
        given: some of `pick`, `artist_gap`, `exploration`, `exploration_plays`, `familiar` and `fallback`.
        where: begins their names in messages.

    Raises:
        InputError: one is out of range.
    """
    try:
        _check(**given)
    except InputError as error:
        raise InputError(f"{where}{error}") from None


def familiar_share(familiar: float | int | str, where: str = "") -> float:
    """The share of known tracks that `familiar=` says; 1 for `learned`, where the scores alone decide.

    Args:
        familiar: as it was typed.
        where: begins its name in messages.

    Raises:
        InputError: it is no share, and not `learned`.
    """
    check_picking({"familiar": familiar}, where)
    return 1.0 if familiar == LEARNED else float(familiar)


def check_familiar(where: str, familiar: int | float, context: str) -> None:
    """Refuse a share of known tracks where nobody is known.

    Args:
        where: begins the message.
        familiar: see `SessionSearch.best`.
        context: what the arm answers from.

    Raises:
        InputError: it is below 1, and the listener is no part of the context.
    """
    if familiar < 1 and context != "listener":
        raise InputError(
            f"{where}familiar={familiar:g} needs context=listener, which knows the listener, and the arm has "
            f"context={context}; use a run that was trained with context=listener, or leave familiar= out"
        )


@settings()
def _check(
    *,
    pick: Annotated[str, Setting("how a track of a list is picked; see `places.py`", choices=tuple(PICKS))] = "uniform",
    artist_gap: Annotated[
        int, Setting("number of last tracks whose artists are avoided", least=0, most=1000, hint="0 switches it off")
    ] = 0,
    exploration: Annotated[
        float,
        Setting(
            "share of the picks that are among new tracks", least=0, most=0.5, hint="0 switches it off, 0.05 is usual"
        ),
    ] = 0.0,
    exploration_plays: Annotated[
        int, Setting("tracks with fewer plays in training are new", least=1, hint="1 for tracks never played")
    ] = 1,
    familiar: Annotated[
        float | Literal["learned"],
        Setting(
            "share of what is played that the listener may know already",
            least=0,
            most=1,
            hint="learned, or 1, leaves it to the scores",
        ),
    ] = "learned",
    fallback: Annotated[
        str, Setting("what follows where a list has no track left", choices=tuple(FALLBACKS))
    ] = "random",
) -> None:
    """The settings of every picking, which are checked when it is called."""


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
        sources: number of the source that it came from, in `Picker.sources`; all but the first one are fallbacks.
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
    artists: "ArtistTracks"

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


@dataclass(frozen=True, eq=False)
class ArtistTracks:
    """The tracks of each artist, and which of all tracks may be picked.

    A *kept* track is known, and never picked: a session may have heard it before it left the catalogue.

    Args:
        artist_of: row of the artist of each track.
        by_artist: rows of all tracks but the kept ones, those of an artist one after another, ascending.
        ends: place after the last track of each artist in `by_artist`.
    """

    artist_of: Int[np.ndarray, "N"]
    by_artist: Int[np.ndarray, "O"]
    ends: Int64[np.ndarray, "A"]

    @classmethod
    def of(
        cls, artist_of: Int[np.ndarray, "N"], num_artists: int = 0, kept: Int[np.ndarray, "kept"] | None = None
    ) -> "ArtistTracks":
        """Find the tracks of each artist.

        Args:
            artist_of: row of the artist of each track.
            num_artists: number of artists (A), if some of them have no tracks.
            kept: rows of the kept tracks, if any.
        """
        by_artist = np.argsort(artist_of, kind="stable")
        if kept is not None and len(kept):
            by_artist = by_artist[~np.isin(by_artist, kept)]
        num_artists = max(num_artists, int(artist_of.max(initial=-1)) + 1)
        return cls(artist_of, by_artist, np.bincount(artist_of[by_artist], minlength=num_artists).cumsum())

    @property
    def num_open(self) -> int:
        """Number of tracks that may be picked (O)."""
        return len(self.by_artist)

    @cached_property
    def is_kept(self) -> Bool[np.ndarray, "N"] | None:
        """Whether each track is kept; None where none is."""
        if self.num_open == len(self.artist_of):
            return None
        is_kept = np.ones(len(self.artist_of), bool)
        is_kept[self.by_artist] = False
        return is_kept

    def without_kept(self, rows: Int[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """Rows of tracks, with -1 for those that are kept.

        Args:
            rows: of tracks; -1 for none.
        """
        return rows if self.is_kept is None else np.where(self.is_kept[rows], -1, rows)

    def drawn(self, draws: Int64[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
        """The row of each of some tracks that may be picked.

        Args:
            draws: their numbers, in 0..O-1.
        """
        return draws if self.is_kept is None else np.asarray(self.by_artist[draws], np.int64)

    @cached_property
    def _place(self) -> Int64[np.ndarray, "N"]:
        """Place of each track in `by_artist`; of a kept one that before the first one of its artist."""
        if self.is_kept is None:
            return np.argsort(self.by_artist)
        place: Int64[np.ndarray, N] = np.append(0, self.ends)[self.artist_of] - 1
        place[self.by_artist] = np.arange(self.num_open)
        return place

    def by(self, artist: int) -> Int[np.ndarray, "n"]:
        """Rows of all tracks by an artist but the kept ones.

        Args:
            artist: row of the artist.
        """
        return self.by_artist[int(self.ends[artist - 1]) if artist else 0 : int(self.ends[artist])]

    def num_others(self, rows: Int[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
        """How many other tracks that may be picked the artist of each track has."""
        artists = self.artist_of[rows]
        itself = 1 if self.is_kept is None else ~self.is_kept[rows]
        return np.asarray(self.ends[artists] - np.where(artists > 0, self.ends[artists - 1], 0) - itself)

    def after(self, rows: Int[np.ndarray, "S"], steps: Int64[np.ndarray, "#S K"]) -> Int64[np.ndarray, "S K"]:
        """The other tracks of an artist, in the order of the catalogue; the first one follows the last one.

        Args:
            rows: a track of the artist.
            steps: how many tracks each is after it, at least 1.

        Returns:
            Their rows; -1 where the artist has no more.
        """
        num_others = self.num_others(rows)[:, None]
        size = num_others + (1 if self.is_kept is None else ~self.is_kept[rows][:, None])
        first = self.ends[self.artist_of[rows]][:, None] - size
        places = first + (self._place[rows][:, None] - first + steps) % np.maximum(size, 1)
        return np.where(steps <= num_others, self.by_artist.take(places, mode="clip"), -1).astype(np.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Picker:
    """Picks the next track of sessions.

    Args:
        policy: one of `POLICIES`.
        artists: the tracks of each artist.
        pick: one of `PICKS`, for lists. All but `uniform` pick no track that the session has heard.
        artist_gap: number of last tracks whose artists are avoided as long as the list has others.
        exploration: share of the picks from lists that are among new tracks: those of the list, or, where it has none
            that may be picked, all new tracks, uniformly.
        new: rows of the new tracks, ascending.
        popular: distinct rows of the tracks of `popular`, also as a fallback.
        fallback: one of `FALLBACKS`: what follows where a list has no track left.
    """

    policy: str
    artists: ArtistTracks
    pick: str = "uniform"
    artist_gap: int = 0
    exploration: float = 0.0
    new: Int64[np.ndarray, "M"] = field(default_factory=lambda: np.empty(0, np.int64))
    popular: Int[np.ndarray, "P"] = field(default_factory=lambda: np.empty(0, np.int64))
    fallback: str = "random"

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Where tracks come from, in this order: the source of the policy, and its fallbacks."""
        fallbacks = FALLBACKS[self.fallback if self.has_lists else "random"]
        return tuple(dict.fromkeys((_SOURCES[self.policy], *fallbacks)))

    @property
    def has_lists(self) -> bool:
        """Whether it picks from lists."""
        return self.policy in LISTS

    @cached_property
    def avoids_heard(self) -> bool:
        """Whether no track that the session has heard is picked."""
        return self.has_lists and not PICKS[self.pick].may_repeat

    @cached_property
    def needs_session(self) -> bool:
        """Whether other tracks of the session than the last one matter."""
        return self.avoids_heard or (self.has_lists and self.artist_gap > 0)

    def pick_next(
        self,
        candidates: Int[np.ndarray, "S K"],
        heard: Int[np.ndarray, "S T"],
        rng: np.random.Generator,
    ) -> Picked:
        """Pick the next track of each session.

        Args:
            candidates: the list of each session, best first; -1 fills up. Of no columns where the policy has no lists.
            heard: rows of the tracks that each session has heard, the last one first; -1 for tracks that are not in
                the catalogue, and after the first one.
            rng: draws the tracks.
        """
        num = len(heard)
        found, left = Picked(np.full(num, -1), np.zeros(num), np.zeros(num, np.int64)), np.arange(num)
        for number, source in enumerate(self.sources):
            rows, chances = self._draw(source, candidates, heard, rng)
            found.rows[left], found.propensities[left], found.sources[left] = rows, chances, number
            if not (is_left := rows < 0).any():
                break
            left, candidates, heard = left[is_left], candidates[is_left], heard[is_left]
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
                draw, num = rng.random(), len(tracks)
                if num:
                    return int(tracks[int(draw * num)]), 1 / num, number
            elif source == "artist":
                rows = np.array([last])
                draw, num = rng.random(), int(self.artists.num_others(rows)[0])
                if num:
                    return int(self.artists.after(rows, np.array([[1 + int(draw * num)]]))[0, 0]), 1 / num, number
            elif source == "popular" and (num := len(self.popular)):
                return int(self.popular[rng.integers(num)]), 1 / num, number
        row = rng.integers(num := self.artists.num_open)
        return int(row if self.artists.is_kept is None else self.artists.by_artist[row]), 1 / num, number

    def pick_from_lists(
        self,
        candidates: Int[np.ndarray, "S K"],
        heard: Int[np.ndarray, "S T"],
        draws: Float64[np.ndarray, "S"],
    ) -> tuple[Int[np.ndarray, "S"], Float64[np.ndarray, "S"]]:
        """Pick a track of the list of each session, or a new one.

        Args:
            candidates: as for `pick_next`.
            heard: as for `pick_next`.
            draws: one random number for each session, uniform in [0, 1).

        Returns:
            Row and probability of each track; -1 and 0 where a list has none left.
        """
        is_open, is_new, others, share, of_list = self._open(candidates, heard)
        if self.exploration:
            explores, draws = _coin(draws, self.exploration)
            is_open = np.where((explores & is_new.any(1))[:, None], is_new, is_open)
        chosen = PICKS[self.pick].pick(is_open, draws)
        rows, chances = at(candidates, chosen, -1), at(of_list, chosen, 0.0)
        if self.exploration and len(some := np.flatnonzero(explores & others.any(1))):
            rows[some] = self.new[PICKS["uniform"].pick(others[some], draws[some])]
            chances[some] = share[some] / others[some].sum(1)
        return rows, chances

    def choices(self, candidates: Int[np.ndarray, "S K"], heard: Int[np.ndarray, "S T"]) -> Choices:
        """Compute the probability with which `pick_next` picks each track.

        Args:
            candidates: as for `pick_next`.
            heard: as for `pick_next`.
        """
        num, left = len(heard), np.arange(len(heard))
        tracks, probabilities = [np.empty((num, 0), np.int64)], [np.empty((num, 0))]
        for source in self.sources[:-1]:
            rows, chances = self._distribution(source, candidates[left], heard[left])
            tracks.append(np.full((num, rows.shape[1]), -1))
            probabilities.append(np.zeros(tracks[-1].shape))
            tracks[-1][left], probabilities[-1][left] = rows, chances
            left = left[~chances.any(1)]
        return Choices(
            tracks=np.concatenate(tracks, 1),
            probabilities=np.concatenate(probabilities, 1),
            rest=np.bincount(left, minlength=num).astype(np.float64),
            avoided=self._avoided(heard),
            artists=self.artists,
        )

    def _avoided(self, heard: Int[np.ndarray, "S T"]) -> Int[np.ndarray, "S t"]:
        return self.artists.without_kept(heard) if self.avoids_heard else heard[:, :0]

    def _draw(
        self,
        source: str,
        candidates: Int[np.ndarray, "S K"],
        heard: Int[np.ndarray, "S T"],
        rng: np.random.Generator,
    ) -> tuple[Int[np.ndarray, "S"], Float64[np.ndarray, "S"]]:
        """A track of a source and its probability; -1 and 0 where it has none left."""
        num = len(heard)
        if source == "list":
            return self.pick_from_lists(candidates, heard, rng.random(num))
        if source == "random":  # any track, as far as some draws find one that is not avoided
            avoided, num_tracks = self._avoided(heard), self.artists.num_open
            rows, again = self.artists.drawn(rng.integers(num_tracks, size=num)), np.arange(num)
            for _ in range(TRIES - 1):
                again = again[are_in(rows[again, None], avoided[again])[:, 0]]
                if not len(again):
                    break
                rows[again] = self.artists.drawn(rng.integers(num_tracks, size=len(again)))
            return rows, _of_any(rows[:, None], avoided, num_tracks)[:, 0]
        if self.avoids_heard:
            rows, chances = self._distribution(source, candidates, heard)
            places = PICKS["uniform"].pick(chances > 0, rng.random(num))
            return at(rows, places, -1), at(chances, places, 0.0)
        # one draw suffices: sources are long, and all their tracks have the same probability
        if source == "artist":
            num_others = self.artists.num_others(heard[:, 0])
            steps = 1 + uniform_place(rng.random(num), num_others)
            chances = np.where(num_others > 0, 1 / np.maximum(num_others, 1), 0.0)
            return self.artists.after(heard[:, 0], steps[:, None])[:, 0], chances
        if not (num_popular := len(self.popular)):
            return np.full(num, -1), np.zeros(num)
        return self.popular[rng.integers(num_popular, size=num)], np.full(num, 1 / num_popular)

    def _distribution(
        self, source: str, candidates: Int[np.ndarray, "S K"], heard: Int[np.ndarray, "S T"]
    ) -> tuple[Int[np.ndarray, "S C"], Float64[np.ndarray, "S C"]]:
        """The tracks of a source with their probabilities; all 0 where none is left."""
        if source == "list":
            rows = np.concatenate([candidates, np.broadcast_to(self.new, (len(heard), len(self.new)))], 1)
            _, _, others, share, of_list = self._open(candidates, heard)
            return rows, np.concatenate([of_list, share[:, None] * PICKS["uniform"].probabilities(others)], 1)
        rows = np.broadcast_to(self.popular, (len(heard), len(self.popular)))
        if source == "artist":
            most = self.artists.num_others(heard[:, 0]).max(initial=0)
            rows = self.artists.after(heard[:, 0], np.arange(1, most + 1)[None])
        return rows, PICKS["uniform"].probabilities(self._unheard(rows, heard))

    def _unheard(self, rows: Int[np.ndarray, "S K"], heard: Int[np.ndarray, "S T"]) -> Bool[np.ndarray, "S K"]:
        is_open = rows >= 0
        return is_open & ~are_in(rows, heard) if self.avoids_heard else is_open

    def _open(
        self, candidates: Int[np.ndarray, "S K"], heard: Int[np.ndarray, "S T"]
    ) -> tuple[
        Bool[np.ndarray, "S K"],
        Bool[np.ndarray, "S K"],
        Bool[np.ndarray, "S M"],
        Float64[np.ndarray, "S"],
        Float64[np.ndarray, "S K"],
    ]:
        """The places of lists that may be picked, those of new tracks, and where a list has none, which of all new
        tracks; the share of the picks that explore; and the probability of each place."""
        recent = heard[:, : self.artist_gap]
        artists = np.where(recent >= 0, self.artists.artist_of[recent], -1)
        is_open = self._spaced(self._unheard(candidates, heard), candidates, artists)
        is_new, others = np.zeros(is_open.shape, bool), np.zeros((len(heard), len(self.new)), bool)
        usual = PICKS[self.pick].probabilities(is_open)
        if not self.exploration:
            return is_open, is_new, others, np.zeros(len(heard)), usual
        is_new = is_open & (self._place_of_new[candidates] < len(self.new))
        without = np.flatnonzero(is_open.any(1) & ~is_new.any(1))
        closed = heard[without] if self.avoids_heard else heard[without, :1]
        unheard = np.ones((len(without), len(self.new) + 1), bool)  # the last one is for tracks that are not new
        np.put_along_axis(unheard, self._place_of_new[closed], False, axis=1)
        others[without] = self._spaced(unheard[:, :-1], self.new[None], artists[without])
        share = np.where(is_new.any(1) | others.any(1), self.exploration, 0.0)
        explored = share[:, None] * PICKS[self.pick].probabilities(is_new)
        return is_open, is_new, others, share, (1 - share)[:, None] * usual + explored

    def _spaced(
        self, is_open: Bool[np.ndarray, "S K"], rows: Int[np.ndarray, "R K"], artists: Int[np.ndarray, "S G"]
    ) -> Bool[np.ndarray, "S K"]:
        """The open places of other artists; all open ones where there are none."""
        if not artists.shape[1]:
            return is_open
        found = is_open & ~are_in(np.broadcast_to(self.artists.artist_of[rows], is_open.shape), artists)
        return np.where(found.any(1, keepdims=True), found, is_open)

    @cached_property
    def _place_of_new(self) -> Int64[np.ndarray, "N_1"]:
        """Place of each track among the new ones, their number for others; the last one is for -1."""
        place = np.full(len(self.artists.artist_of) + 1, len(self.new))
        place[self.new] = np.arange(len(self.new))
        return place


def _coin(draws: Float64[np.ndarray, "S"], share: float) -> tuple[Bool[np.ndarray, "S"], Float64[np.ndarray, "S"]]:
    """Which numbers are below a share, and the rest of each: uniform in [0, 1) too, and independent of it."""
    is_below = draws < share
    rest = np.where(is_below, draws / (share or 1), (draws - share) / (1 - share))
    return is_below, np.minimum(rest, np.nextafter(1.0, 0.0))
