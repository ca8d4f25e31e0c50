"""After the test: five pictures of the run for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32, Int64

from segue.atomic import write_whole
from segue.callbacks.ranking_metrics import RankingMetrics
from segue.datamodules.split_datamodule import SplitDataModule
from segue.models.contracts import Scorer
from segue.models.head_ranker import mean_of_tracks, score_pairs
from segue.models.ranker import Ranker
from segue.reports import training_pictures as plots
from segue.reports.console import console
from segue.statistics import ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PAIRS = 200_000
"""Test pairs that are scored for the pictures, a seeded choice where there are more."""


class Pictures:
    """Draws the learning curve, and for the weights under test calibration, scores, popularity and artists.

    What a run has nothing of is not drawn: no calibration where the source gives no shares, no popularity without
    ranks of test queries, and popularity alone of a baseline.

    Args:
        monitor: the metric that chooses the best epoch.
        mode: `max` or `min`: which of its values is best.
        seed: decides the random pairs, and which test pairs are scored where there are very many.
    """

    def __init__(self, *, folder: str, monitor: str, mode: str, seed: int) -> None:
        self._folder, self._monitor, self._mode, self._seed = Path(folder), monitor, mode, seed

    def draw(
        self,
        ranker: Ranker,
        device: torch.device,
        data: SplitDataModule,
        epochs: Sequence[Mapping[str, float]],
        ranked: RankingMetrics | None,
    ) -> list[Path]:
        """Draw.

        Args:
            ranked: has the test queries and their ranks; None without any.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        drawn: dict[str, Figure] = {}
        with torch.inference_mode(), console.status("drawing"):
            if ranked is not None and ranked.ranks is not None:
                plays = data.vocabulary.plays
                drawn["popularity"] = plots.draw_popularity(
                    plays=plays[ranked.queries["test"].following], ranks=ranked.ranks, num_tracks=len(plays)
                )
            if ranker.scorer is not None:
                if epochs:
                    drawn["learning_curve"] = plots.draw_learning_curve(epochs, monitor=self._monitor, mode=self._mode)
                drawn |= self._draw_scores(ranker, ranker.scorer, device, data) | _draw_artists(ranker.scorer, data)
            paths = {self._folder / f"{name}.png": figure for name, figure in drawn.items()}
            for path, figure in paths.items():
                write_whole(path, figure.savefig)
        return list(paths)

    def _draw_scores(
        self, ranker: Ranker, scorer: Scorer, device: torch.device, data: SplitDataModule
    ) -> dict[str, "Figure"]:
        rng, pairs, drawn = np.random.default_rng(self._seed), data.pairs["test"], {}
        if len(pairs) > MAX_PAIRS:
            pairs = pairs.where(np.sort(rng.permutation(len(pairs))[:MAX_PAIRS]))
        histories = data.histories(pairs)

        def score(following: Int64[np.ndarray, "P"]) -> Float32[torch.Tensor, "P"]:
            return score_pairs(scorer, ranker.context.of_loss, histories, following, device)

        scores = score(pairs.following)
        if ranker.loss is not None:
            predicted = ranker.loss.predict(scores, torch.from_numpy(pairs.listener).to(device)).cpu().numpy()
            known = ~np.isnan(pairs.played_ratio) & np.isfinite(predicted)  # NaN where no training pair has a share
            if known.any():
                drawn["calibration"] = plots.draw_calibration(predicted[known], pairs.played_ratio[known])
        random = score(plots.random_candidates(pairs.previous, len(data.catalog), rng)).cpu().numpy()
        liked = ranking.is_query(pairs.previous, pairs.following, pairs.played_ratio)
        skipped = ~liked & (pairs.previous != pairs.following)
        of_pairs = scores.cpu().numpy()
        drawn["scores"] = plots.draw_scores(liked=of_pairs[liked], skipped=of_pairs[skipped], random=random)
        return drawn


def _draw_artists(scorer: Scorer, data: SplitDataModule) -> dict[str, "Figure"]:
    catalog, own = data.catalog, scorer.artist_vectors()
    vectors = (mean_of_tracks(scorer, torch.from_numpy(catalog.artist_of)) if own is None else own).cpu().numpy()
    plays = np.bincount(catalog.artist_of, data.vocabulary.plays, catalog.num_artists).astype(np.int64)
    seen = vectors.any(1)  # what no training pair shows is zero
    if not seen.any():
        return {}
    what = "Mean track embeddings" if own is None else "Embeddings"
    shown = plots.draw_artists(vectors=vectors[seen], plays=plays[seen], names=catalog.artists[seen], what=what)
    return {"artists": shown}
