"""After the test: five pictures of the run for people."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from src.datamodules.pair_datamodule import PairDataModule
from src.evaluation import ranking
from src.models.heads import CosineMix, TwoTableDot
from src.models.pair_ranker import PairRanker
from src.plots import artist_map
from src.plots import run as plots
from src.terminal.progress import progress

MAX_PAIRS = 200_000
"""Test pairs that are scored for the pictures, a seeded choice where there are more."""

_BLOCK = 65_536


class Plots(Callback):
    """Draws the learning curve, and for the weights under test calibration, scores, popularity and artists.

    What a run has nothing of is not drawn: no calibration where the source gives no shares, no popularity without
    test queries, and popularity alone of a baseline.

    Args:
        datamodule: the data, set up.
        folder: where the pictures are written.
        queries_path: where the test queries are read, with their ranks, which `Ranking` writes.
        monitor: the metric that chooses the best epoch.
        mode: `max` or `min`: which of its values is best.
        seed: decides the random pairs, and which test pairs are scored where there are very many.
    """

    def __init__(
        self, datamodule: PairDataModule, *, folder: str, queries_path: str, monitor: str, mode: str, seed: int
    ) -> None:
        self._vocabulary, self._test = datamodule.vocabulary, datamodule.pairs["test"]
        self._folder, self._queries_path = Path(folder), Path(queries_path)
        self._monitor, self._mode, self._seed = monitor, mode, seed
        self._epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Keep the metrics of the epoch; the checkpoint of this epoch has them then, since it is written last."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._epochs.append({"epoch": float(trainer.current_epoch), **metrics})

    def state_dict(self) -> dict[str, Any]:
        """The metrics of every epoch so far."""
        return {"epochs": self._epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the curve; not where this run has a longer one, since the test loads the best epoch's state too."""
        if len(state_dict["epochs"]) > len(self._epochs):
            self._epochs = list(state_dict["epochs"])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Draw."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with torch.inference_mode(), progress("drawing", 4) as advance:
            self._draw_popularity()
            advance(1)
            if not isinstance(pl_module, PairRanker):
                return
            if self._epochs:
                path = self._folder / "learning_curve.png"
                plots.draw_learning_curve(self._epochs, monitor=self._monitor, mode=self._mode, path=path)
            advance(1)
            self._draw_scores(pl_module)
            advance(1)
            self._draw_artists(pl_module.scorer)
            advance(1)

    def _draw_scores(self, pl_module: PairRanker) -> None:
        rng, pairs = np.random.default_rng(self._seed), self._test
        if len(pairs) > MAX_PAIRS:
            chosen = np.zeros(len(pairs), bool)
            chosen[rng.permutation(len(pairs))[:MAX_PAIRS]] = True
            pairs = pairs.where(chosen)
        scores = _scores(pl_module, pairs.previous, pairs.following)
        known = ~np.isnan(pairs.played_ratio)
        listener = torch.from_numpy(pairs.listener).to(pl_module.device)
        predicted = pl_module.loss.predict(scores, listener).cpu().numpy()
        known &= np.isfinite(predicted)  # NaN where no training pair has a share
        if known.any():
            plots.draw_calibration(predicted[known], pairs.played_ratio[known], self._folder / "calibration.png")
        random = plots.random_candidates(pairs.previous, len(self._vocabulary.catalog), rng)
        liked = ranking.is_query(pairs.previous, pairs.following, pairs.played_ratio)
        skipped = ~liked & (pairs.previous != pairs.following)
        of_pairs = scores.cpu().numpy()
        plots.draw_scores(
            liked=of_pairs[liked],
            skipped=of_pairs[skipped],
            random=_scores(pl_module, pairs.previous, random).cpu().numpy(),
            path=self._folder / "scores.png",
        )

    def _draw_popularity(self) -> None:
        if not self._queries_path.exists():
            return
        queries = pd.read_parquet(self._queries_path, columns=["following", "rank"])
        following = self._vocabulary.catalog.rows_of(queries["following"].to_numpy())
        plots.draw_popularity(
            plays=self._vocabulary.plays[following],
            ranks=queries["rank"].to_numpy(),
            num_tracks=len(self._vocabulary.catalog),
            path=self._folder / "popularity.png",
        )

    def _draw_artists(self, scorer: CosineMix | TwoTableDot) -> None:
        catalog = self._vocabulary.catalog
        vectors = artist_vectors(scorer, torch.from_numpy(catalog.artist_of)).cpu().numpy()
        plays = np.bincount(catalog.artist_of, self._vocabulary.plays, catalog.num_artists).astype(np.int64)
        seen = vectors.any(1)  # what no training pair shows is zero
        if seen.any():
            artist_map.draw_artists(
                vectors=vectors[seen],
                plays=plays[seen],
                names=catalog.artists[seen],
                what="Mean track embeddings" if _artist_table(scorer) is None else "Embeddings",
                path=self._folder / "artists.png",
            )


def artist_vectors(scorer: CosineMix | TwoTableDot, artist_of: Int64[Tensor, "N"]) -> Float[Tensor, "A V"]:
    """The vector of each artist, as the scorer compares them; the mean of its tracks' where it knows no artists.

    Tracks that no training pair shows have the zero vector and do not count; zero where an artist has no others.
    """
    if (table := _artist_table(scorer)) is not None:
        return F.normalize(table.weight, dim=-1)
    tracks = scorer.item_vectors()
    artist_of = artist_of.to(tracks.device)
    sums = tracks.new_zeros(int(artist_of.max()) + 1, tracks.shape[1]).index_add_(0, artist_of, tracks)
    counts = tracks.new_zeros(len(sums)).index_add_(0, artist_of, tracks.any(1).to(tracks.dtype))
    return sums / counts.clamp(min=1)[:, None]


def _artist_table(scorer: CosineMix | TwoTableDot) -> nn.Embedding | None:
    return scorer.artist if isinstance(scorer, CosineMix) else None


def _scores(
    pl_module: PairRanker, previous: Int64[np.ndarray, "P"], following: Int64[np.ndarray, "P"]
) -> Float32[Tensor, "P"]:
    blocks = zip(*(torch.from_numpy(rows).split(_BLOCK) for rows in (previous, following)), strict=True)
    scored = [pl_module.scorer(*(rows.to(pl_module.device) for rows in block)) for block in blocks]
    return torch.cat(scored)
