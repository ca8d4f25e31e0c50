"""After the test: five pictures of the run for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64

from segue.callbacks.ranking_metrics import RankedQueries
from segue.datamodules.split_datamodule import SplitDataModule
from segue.evaluation import ranking
from segue.models.contracts import Ranker, Scorer
from segue.models.pair_ranker import mean_of_tracks, score_pairs
from segue.reports import artist_map
from segue.reports import training_pictures as plots
from segue.terminal.progress import progress

MAX_PAIRS = 200_000
"""Test pairs that are scored for the pictures, a seeded choice where there are more."""


class Pictures:
    """Draws the learning curve, and for the weights under test calibration, scores, popularity and artists.

    What a run has nothing of is not drawn: no calibration where the source gives no shares, no popularity without
    ranks of test queries, and popularity alone of a baseline.

    Args:
        folder: where the pictures are written.
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
        queries: RankedQueries | None,
    ) -> list[Path]:
        """Draw.

        Args:
            ranker: the model.
            device: where its weights are.
            data: the data, set up.
            epochs: the metrics of each epoch.
            queries: the test queries and their ranks; None without any.

        Returns:
            The files.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with torch.inference_mode(), progress("drawing", 4) as advance:
            drawn = [] if queries is None else [self._draw_popularity(data, queries)]
            advance(1)
            if ranker.scorer is None:
                return drawn
            if epochs:
                drawn.append(self._folder / "learning_curve.png")
                plots.draw_learning_curve(epochs, monitor=self._monitor, mode=self._mode, path=drawn[-1])
            advance(1)
            drawn += self._draw_scores(ranker, ranker.scorer, device, data)
            advance(1)
            drawn += self._draw_artists(ranker.scorer, data)
            advance(1)
        return drawn

    def _draw_scores(self, ranker: Ranker, scorer: Scorer, device: torch.device, data: SplitDataModule) -> list[Path]:
        rng, pairs, drawn = np.random.default_rng(self._seed), data.pairs["test"], []
        if len(pairs) > MAX_PAIRS:
            chosen = np.zeros(len(pairs), bool)
            chosen[rng.permutation(len(pairs))[:MAX_PAIRS]] = True
            pairs = pairs.where(chosen)
        histories = data.histories(pairs)

        def score(following: Int64[np.ndarray, "P"]) -> Float32[torch.Tensor, "P"]:
            return score_pairs(scorer, ranker.context.of_loss, histories, following, device)

        scores = score(pairs.following)
        if ranker.loss is not None:
            predicted = ranker.loss.predict(scores, torch.from_numpy(pairs.listener).to(device)).cpu().numpy()
            known = ~np.isnan(pairs.played_ratio) & np.isfinite(predicted)  # NaN where no training pair has a share
            if known.any():
                drawn.append(self._folder / "calibration.png")
                plots.draw_calibration(predicted[known], pairs.played_ratio[known], drawn[-1])
        random = plots.random_candidates(pairs.previous, len(data.catalog), rng)
        liked = ranking.is_query(pairs.previous, pairs.following, pairs.played_ratio)
        skipped = ~liked & (pairs.previous != pairs.following)
        of_pairs = scores.cpu().numpy()
        drawn.append(self._folder / "scores.png")
        plots.draw_scores(
            liked=of_pairs[liked], skipped=of_pairs[skipped], random=score(random).cpu().numpy(), path=drawn[-1]
        )
        return drawn

    def _draw_popularity(self, data: SplitDataModule, queries: RankedQueries) -> Path:
        path, plays = self._folder / "popularity.png", data.vocabulary.plays
        plots.draw_popularity(plays=plays[queries.following], ranks=queries.rank, num_tracks=len(plays), path=path)
        return path

    def _draw_artists(self, scorer: Scorer, data: SplitDataModule) -> list[Path]:
        catalog, path = data.catalog, self._folder / "artists.png"
        own = scorer.artist_vectors()
        shown = mean_of_tracks(scorer, torch.from_numpy(catalog.artist_of)) if own is None else own
        vectors = shown.cpu().numpy()
        plays = np.bincount(catalog.artist_of, data.vocabulary.plays, catalog.num_artists).astype(np.int64)
        seen = vectors.any(1)  # what no training pair shows is zero
        if not seen.any():
            return []
        artist_map.draw_artists(
            vectors=vectors[seen],
            plays=plays[seen],
            names=catalog.artists[seen],
            what="Mean track embeddings" if own is None else "Embeddings",
            path=path,
        )
        return [path]
