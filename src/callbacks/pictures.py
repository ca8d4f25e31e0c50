"""After the test: pictures of the run for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from segue.atomic import write_whole
from segue.datamodules.pair_datamodule import PairDataModule
from segue.models.contracts import Scorer
from segue.models.head_ranker import artist_vectors, score_pairs
from segue.models.ranker import Ranker
from segue.reports import training_pictures as plots
from segue.reports.console import console

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PAIRS = 200_000
"""Test pairs that are scored for the calibration, a seeded choice where there are more."""


class Pictures:
    """Draws the learning curve, and of the weights under test the calibration and the artists.

    What a run has nothing of is not drawn: no calibration where the source gives no shares, nothing of a baseline.

    Args:
        monitor: the metric that chooses the best epoch.
        mode: `max` or `min`: which of its values is best.
        seed: decides which test pairs are scored where there are very many.
    """

    def __init__(self, *, folder: str, monitor: str, mode: str, seed: int) -> None:
        self._folder, self._monitor, self._mode, self._seed = Path(folder), monitor, mode, seed

    def draw(
        self, ranker: Ranker, device: torch.device, data: PairDataModule, epochs: Sequence[Mapping[str, float]]
    ) -> None:
        """Draw."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if (scorer := ranker.scorer) is None:
            return
        with torch.inference_mode(), console.status("drawing"):
            drawn = {"artists": _draw_artists(scorer, data)}
            drawn["calibration"] = self._draw_calibration(ranker, scorer, device, data)
            if epochs:
                drawn["learning_curve"] = plots.draw_learning_curve(epochs, monitor=self._monitor, mode=self._mode)
            for name, figure in drawn.items():
                if figure is not None:
                    write_whole(self._folder / f"{name}.png", figure.savefig)

    def _draw_calibration(
        self, ranker: Ranker, scorer: Scorer, device: torch.device, data: PairDataModule
    ) -> "Figure | None":
        pairs = data.pairs["test"]
        if ranker.loss is None:
            return None
        if len(pairs) > MAX_PAIRS:
            pairs = pairs.where(np.sort(np.random.default_rng(self._seed).permutation(len(pairs))[:MAX_PAIRS]))
        histories = data.histories(pairs)
        scores = score_pairs(scorer, ranker.context.of_loss, histories, pairs.following)
        predicted = ranker.loss.predict(scores, torch.from_numpy(pairs.listener).to(device)).cpu().numpy()
        known = ~np.isnan(pairs.played_ratio) & np.isfinite(predicted)  # NaN where no training pair has a share
        return plots.draw_calibration(predicted[known], pairs.played_ratio[known]) if known.any() else None


def _draw_artists(scorer: Scorer, data: PairDataModule) -> "Figure | None":
    catalog, own = data.catalog, scorer.query_parts().get("artist")
    vectors = artist_vectors(scorer, catalog.artist_of).cpu().numpy()
    plays = np.bincount(catalog.artist_of, data.vocabulary.plays, catalog.num_artists).astype(np.int64)
    seen = vectors.any(1)  # what no training pair shows is zero
    if not seen.any():
        return None
    what = "Mean track embeddings" if own is None else "Embeddings"
    return plots.draw_artists(vectors=vectors[seen], plays=plays[seen], names=catalog.artists[seen], what=what)
