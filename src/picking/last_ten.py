"""The rule `context=last_ten`: the next track from the lists of a user's last ten plays, as the control of 2026 did it.

The control of the course's experiment of 2026. The service, the simulator and the estimates from logs all call this.

1. The last ten plays of a user are remembered, across sessions and days, this one included.
2. Their distinct tracks are the *anchors*, the newest first. An anchor weighs the sum of the shares that were played of
   its plays. Its *candidate* is the first track of its list that is none of the ten.
3. One of the anchors that have a candidate is drawn in proportion to the weights, and its candidate is next. Where they
   all weigh 0, it is that of the oldest of these anchors.
4. Without a candidate, any track of the catalogue is drawn.

S users, T of their last plays, N tracks of the catalogue, K tracks of a list.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from segue.errors import InputError
from segue.picking.picker import ArtistTracks, Choices, Picked
from segue.picking.places import are_in, at
from segue.runs.session_vectors import LAST_TEN

NUM_PLAYS = 10
"""Plays of a user that are remembered."""
LIST_LENGTH = 10
"""Tracks of a list that are looked at: the lists of 2026 had so many."""


def check_no_other_rules(where: str, own: Collection[str]) -> None:
    """Refuse settings that have no use beside this rule.

    Args:
        where: begins the message.
        own: names of the settings that were chosen for the arm.

    Raises:
        InputError: there is one.
    """
    if useless := sorted({*own} - {"context"}):
        raise InputError(
            f"{where}: context={LAST_TEN} is a whole rule, and {useless[0]} does not change it; leave {useless[0]} out"
        )


class LastPlays(NamedTuple):
    """The last plays of users, the newest first; more than `NUM_PLAYS` are not looked at.

    Attributes:
        rows: of the tracks; -1 for tracks that are not in the catalogue, and after the oldest play.
        shares: share of each that was played, in [0, 1]; anything after the oldest play.
    """

    rows: Int[np.ndarray, "S T"]
    shares: Float[np.ndarray, "S T"]


@dataclass(frozen=True, eq=False, kw_only=True)
class LastTen:
    """Picks the next track of users by their last plays.

    Args:
        lists: rows of the list of each track, best first; -1 fills up.
        artists: says which tracks may be picked where no anchor has a candidate.
    """

    lists: Int[np.ndarray, "N K"]
    artists: ArtistTracks

    policy = "last_ten"
    sources = ("list", "random")
    """Where tracks come from, as of a `Picker`."""

    def pick_next(self, plays: LastPlays, rng: np.random.Generator) -> Picked:
        """Pick the next track of each user.

        Args:
            plays: of each user, at least one.
            rng: draws the tracks.
        """
        candidates, chances = self._distribution(plays)
        reached, is_left = chances.cumsum(1), np.asarray(~chances.any(1))
        places = (reached <= (rng.random(len(candidates)) * reached[:, -1])[:, None]).sum(1)
        rows = at(candidates, np.where(is_left, -1, places), -1).astype(np.int64)
        propensities = np.asarray((chances * (candidates == rows[:, None])).sum(1))
        if num_left := int(is_left.sum()):
            rows[is_left] = self.artists.drawn(rng.integers(self.artists.num_open, size=num_left))
            propensities[is_left] = 1 / self.artists.num_open
        return Picked(rows, propensities, np.asarray(is_left, np.int64))

    def choices(self, plays: LastPlays) -> Choices:
        """Compute the probability with which `pick_next` picks each track.

        Args:
            plays: as for `pick_next`.
        """
        candidates, chances = self._distribution(plays)
        return Choices(
            tracks=candidates,
            probabilities=chances,
            rest=np.asarray(~chances.any(1), np.float64),
            avoided=np.empty((len(candidates), 0), np.int64),
            artists=self.artists,
        )

    def _distribution(self, plays: LastPlays) -> tuple[Int64[np.ndarray, "S T"], Float64[np.ndarray, "S T"]]:
        """The candidate of each anchor and its probability; -1 and 0 for the other plays."""
        rows, shares = plays.rows[:, :NUM_PLAYS], plays.shares[:, :NUM_PLAYS].astype(np.float64)
        is_same = (rows[:, :, None] == rows[:, None, :]) & (rows >= 0)[:, :, None]
        is_anchor = (rows >= 0) & (is_same.argmax(2) == np.arange(rows.shape[1]))
        candidates = np.full(rows.shape, -1, np.int64)
        for place, column in enumerate(rows.T):
            of_list = self.lists[column, :LIST_LENGTH]
            is_open = (of_list >= 0) & ~are_in(of_list, rows) & is_anchor[:, place, None]
            first = np.where(is_open.any(1), is_open.argmax(1), -1) if of_list.shape[1] else np.full(len(rows), -1)
            candidates[:, place] = at(of_list, first, -1)
        has_candidate = candidates >= 0
        weights = np.where(has_candidate, np.where(is_same, shares[:, None], 0.0).sum(2), 0.0)
        oldest = rows.shape[1] - 1 - has_candidate[:, ::-1].argmax(1)
        is_oldest = has_candidate & (np.arange(rows.shape[1]) == oldest[:, None])
        weights = np.where((weights > 0).any(1, keepdims=True), weights, is_oldest.astype(np.float64))
        return candidates, weights / np.maximum(weights.sum(1), np.finfo(np.float64).tiny)[:, None]
