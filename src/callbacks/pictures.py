"""After the test: pictures of the run for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from segue.atomic import write_whole
from segue.datamodules.split_datamodule import SplitDataModule
from segue.models.contracts import Ranker
from segue.models.pair_ranker import mean_of_tracks, score_pairs
from segue.reports import training_pictures as plots
from segue.reports.console import console

MAX_PAIRS = 200_000
"""Test pairs whose share is predicted for the calibration, a seeded choice where there are more."""


class Pictures:
    """Draws the learning curve, and of the weights under test the calibration and the map of the artists.

    What a run has nothing of is not drawn: no calibration where the source gives no shares, nothing of a baseline.

    Args:
        monitor: the metric that chooses the best epoch.
        mode: `max` or `min`: which of its values is best.
        seed: decides which test pairs are scored where there are very many.
    """

    def __init__(self, *, folder: str, monitor: str, mode: str, seed: int) -> None:
        self._folder, self._monitor, self._mode, self._seed = Path(folder), monitor, mode, seed

    def draw(
        self, ranker: Ranker, device: torch.device, data: SplitDataModule, epochs: Sequence[Mapping[str, float]]
    ) -> list[Path]:
        """Draw."""
        if ranker.scorer is None:
            return []
        self._folder.mkdir(parents=True, exist_ok=True)
        drawn = {}
        with torch.inference_mode(), console.status("drawing"):
            if epochs:
                drawn["learning_curve"] = plots.draw_learning_curve(epochs, monitor=self._monitor, mode=self._mode)
            predicted, real = self._shares(ranker, device, data)
            if len(real):
                drawn["calibration"] = plots.draw_calibration(predicted, real)
            catalog, own = data.catalog, ranker.scorer.artist_vectors()
            of_artists = mean_of_tracks(ranker.scorer, torch.from_numpy(catalog.artist_of)) if own is None else own
            vectors = of_artists.cpu().numpy()
            if (seen := vectors.any(1)).any():  # what no training pair shows is zero
                plays = np.bincount(catalog.artist_of, data.vocabulary.plays, catalog.num_artists).astype(np.int64)
                what = "Mean track embeddings" if own is None else "Embeddings"
                drawn["artists"] = plots.draw_artists(
                    vectors=vectors[seen], plays=plays[seen], names=catalog.artists[seen], what=what
                )
            paths = {self._folder / f"{name}.png": figure for name, figure in drawn.items()}
            for path, figure in paths.items():
                write_whole(path, figure.savefig)
        return list(paths)

    def _shares(self, ranker: Ranker, device: torch.device, data: SplitDataModule) -> tuple[np.ndarray, np.ndarray]:
        """The predicted and the real share of the test pairs that have both."""
        pairs = data.pairs["test"]
        if ranker.loss is None or ranker.scorer is None:
            return np.empty(0), np.empty(0)
        if len(pairs) > MAX_PAIRS:
            order = np.random.default_rng(self._seed).permutation(len(pairs))
            pairs = pairs.where(np.sort(order[:MAX_PAIRS]))
        scores = score_pairs(ranker.scorer, ranker.context.of_loss, data.histories(pairs), pairs.following, device)
        predicted = ranker.loss.predict(scores, torch.from_numpy(pairs.listener).to(device)).cpu().numpy()
        known = ~np.isnan(pairs.played_ratio) & np.isfinite(predicted)  # NaN where no training pair has a share
        return predicted[known], pairs.played_ratio[known]
