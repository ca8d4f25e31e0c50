"""Baseline that counts shares and not plays: how much more of a track is played after one track than on average.

N tracks in the catalogue, B queries in a block.
"""

from typing import Annotated, Literal

import numpy as np
from jaxtyping import Int64
from scipy.sparse import csr_array

from segue.catalog import Listens, Vocabulary
from segue.errors import InputError
from segue.models.baselines.counting import ArtistWeight, NumNeighbours, best_candidates
from segue.settings import Setting, settings


@settings("model")
class ShareMeans:
    """Mean share played of a candidate after a query, minus the mean of all pairs, shrunk where there are few events.

    `score(q, c) = Σ w·(share of c − mean share) / (Σ w + shrinkage)`, summed over the events of c with q at most
    `window` places before them in the session; w is the share played of q, and the mean is of all these events with
    the same weights. Dividing by the number of events makes it
    independent of how often a recommender played c. Only scores above 0 are kept. With `level=artist` both tracks are
    replaced by their artists: all tracks of an artist then have the same score, and plays decide among them.

    Args:
        vocabulary: the catalogue and what the training data shows of it.

    Raises:
        InputError: a setting is out of range, or the source does not report shares.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        level: Annotated[
            Literal["track", "artist"], Setting("whether pairs of tracks have means, or pairs of artists")
        ] = "track",
        window: Annotated[int, Setting("largest distance in a session", least=1)] = 10,
        shrinkage: Annotated[
            float,
            Setting(
                "events with the mean share added to each pair", above=0, hint="near 0 a track heard once ranks first"
            ),
        ] = 20.0,
        num_neighbours: NumNeighbours = 500,
        artist_weight: ArtistWeight = 0.0,
    ) -> None:
        if vocabulary.mean_played_ratio is None:
            raise InputError("model=share_means compares shares played, but this source has none; use model=rules")
        catalog = vocabulary.catalog
        self.num_tracks, self.artist_weight, self.order = len(catalog), artist_weight, vocabulary.plays
        self._unit_of = np.arange(len(catalog)) if level == "track" else catalog.artist_of
        self._window, self._shrinkage, self._num_neighbours = window, shrinkage, num_neighbours

    def count(self, listens: Listens) -> csr_array:
        """Compute the scores.

        Args:
            listens: the events of the training sessions; those without a share are left out.

        Returns:
            Score of each kept candidate (column) after a query (row), N × N.
        """
        above = self._above_mean(listens.where(~np.isnan(listens.played_ratio)))
        tracks, sizes = np.argsort(self._unit_of, kind="stable"), np.bincount(self._unit_of)
        starts = np.concatenate([[0], sizes.cumsum()])
        of_unit = csr_array((np.ones(len(tracks), np.float32), tracks, starts), shape=(len(sizes), len(tracks)))

        def scores(rows: Int64[np.ndarray, "B"]) -> csr_array:
            return csr_array(above[self._unit_of[rows]] @ of_unit)

        return best_candidates(scores, self._num_neighbours, order=self.order)

    def _above_mean(self, listens: Listens) -> csr_array:
        """The positive scores of all pairs of tracks, or of all pairs of artists."""
        unit, share = self._unit_of[listens.track], listens.played_ratio.astype(np.float64)
        num_units = int(self._unit_of.max()) + 1
        pairs, heard, played = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0)]
        for distance in range(1, min(self._window, len(unit) - 1) + 1):
            counts = (listens.session[distance:] == listens.session[:-distance]) & (share[:-distance] > 0)
            pairs.append(unit[:-distance][counts] * num_units + unit[distance:][counts])
            heard.append(share[:-distance][counts])
            played.append(share[distance:][counts])
        pair, place = np.unique(np.concatenate(pairs), return_inverse=True)
        weight, following = np.concatenate(heard), np.concatenate(played)
        mean = float(weight @ following / max(weight.sum(), 1e-9))
        total = np.bincount(place, weight * (following - mean), len(pair))
        score = total / (np.bincount(place, weight, len(pair)) + self._shrinkage)
        kept = score > 0
        values = score[kept].astype(np.float32), np.divmod(pair[kept], num_units)
        return csr_array(values, shape=(num_units, num_units))
