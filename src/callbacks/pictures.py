"""After the test: five pictures of the run for people."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from segue.callbacks.run_context import RunContext, ranker_of
from segue.evaluation import ranking
from segue.histories import Histories
from segue.models.contracts import Context, Loss, PairBatch, Ranker, Scorer
from segue.reports import artist_map
from segue.reports import training_pictures as plots
from segue.terminal.progress import progress

MAX_PAIRS = 200_000
"""Test pairs that are scored for the pictures, a seeded choice where there are more."""

_BLOCK = 65_536


class Pictures(Callback):
    """Draws the learning curve, and for the weights under test calibration, scores, popularity and artists.

    What a run has nothing of is not drawn: no calibration where the source gives no shares, no popularity without
    ranks of test queries, and popularity alone of a baseline.

    Args:
        context: of the run; its history and its test queries are drawn, and the pictures are handed on in it.
        folder: where the pictures are written.
        monitor: the metric that chooses the best epoch.
        mode: `max` or `min`: which of its values is best.
        seed: decides the random pairs, and which test pairs are scored where there are very many.
    """

    def __init__(self, context: RunContext, *, folder: str, monitor: str, mode: str, seed: int) -> None:
        self._context, self._folder = context, Path(folder)
        self._vocabulary, self._test = context.datamodule.vocabulary, context.datamodule.pairs["test"]
        self._monitor, self._mode, self._seed = monitor, mode, seed

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Draw."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._draw(ranker_of(pl_module), pl_module.device)
        self._context.clock.end("pictures")

    def _draw(self, ranker: Ranker, device: torch.device) -> None:
        with torch.inference_mode(), progress("drawing", 4) as advance:
            self._draw_popularity()
            advance(1)
            if ranker.scorer is None:
                return
            if epochs := self._context.history.epochs:
                path = self._file("learning_curve.png")
                plots.draw_learning_curve(epochs, monitor=self._monitor, mode=self._mode, path=path)
            advance(1)
            self._draw_scores(ranker.scorer, ranker.context.of_loss, ranker.loss, device)
            advance(1)
            self._draw_artists(ranker.scorer)
            advance(1)

    def _file(self, name: str) -> Path:
        """Where a picture is drawn."""
        path = self._folder / name
        self._context.pictures.append(path)
        return path

    def _draw_scores(self, scorer: Scorer, context: Context, loss: Loss | None, device: torch.device) -> None:
        rng, pairs = np.random.default_rng(self._seed), self._test
        if len(pairs) > MAX_PAIRS:
            chosen = np.zeros(len(pairs), bool)
            chosen[rng.permutation(len(pairs))[:MAX_PAIRS]] = True
            pairs = pairs.where(chosen)
        histories = self._context.datamodule.histories(pairs)

        def score(following: Int64[np.ndarray, "P"]) -> Float32[Tensor, "P"]:
            return _scores(scorer, context, histories, following, device)

        scores = score(pairs.following)
        if loss is not None:
            predicted = loss.predict(scores, torch.from_numpy(pairs.listener).to(device)).cpu().numpy()
            known = ~np.isnan(pairs.played_ratio) & np.isfinite(predicted)  # NaN where no training pair has a share
            if known.any():
                path = self._file("calibration.png")
                plots.draw_calibration(predicted[known], pairs.played_ratio[known], path)
        random = plots.random_candidates(pairs.previous, len(self._vocabulary.catalog), rng)
        liked = ranking.is_query(pairs.previous, pairs.following, pairs.played_ratio)
        skipped = ~liked & (pairs.previous != pairs.following)
        of_pairs = scores.cpu().numpy()
        plots.draw_scores(
            liked=of_pairs[liked],
            skipped=of_pairs[skipped],
            random=score(random).cpu().numpy(),
            path=self._file("scores.png"),
        )

    def _draw_popularity(self) -> None:
        if (queries := self._context.test_queries) is None:
            return
        plots.draw_popularity(
            plays=self._vocabulary.plays[queries.following],
            ranks=queries.rank,
            num_tracks=len(self._vocabulary.catalog),
            path=self._file("popularity.png"),
        )

    def _draw_artists(self, scorer: Scorer) -> None:
        catalog = self._vocabulary.catalog
        own = scorer.artist_vectors()
        drawn = mean_of_tracks(scorer, torch.from_numpy(catalog.artist_of)) if own is None else own
        vectors = drawn.cpu().numpy()
        plays = np.bincount(catalog.artist_of, self._vocabulary.plays, catalog.num_artists).astype(np.int64)
        seen = vectors.any(1)  # what no training pair shows is zero
        if seen.any():
            artist_map.draw_artists(
                vectors=vectors[seen],
                plays=plays[seen],
                names=catalog.artists[seen],
                what="Mean track embeddings" if own is None else "Embeddings",
                path=self._file("artists.png"),
            )


def mean_of_tracks(scorer: Scorer, artist_of: Int64[Tensor, "N"]) -> Float[Tensor, "A V"]:
    """The mean item vector of each artist's tracks, for a scorer that has no vectors of artists.

    Tracks that no training pair shows have the zero vector and do not count; zero where an artist has no others.
    """
    tracks = scorer.item_vectors()
    artist_of = artist_of.to(tracks.device)
    sums = tracks.new_zeros(int(artist_of.max()) + 1, tracks.shape[1]).index_add_(0, artist_of, tracks)
    counts = tracks.new_zeros(len(sums)).index_add_(0, artist_of, tracks.any(1).to(tracks.dtype))
    return sums / counts.clamp(min=1)[:, None]


def _scores(
    scorer: Scorer,
    context: Context,
    histories: Histories,
    following: Int64[np.ndarray, "P"],
    device: torch.device,
) -> Float32[Tensor, "P"]:
    scores = []
    for start in range(0, len(following), _BLOCK):
        part, candidates = histories.part(start, start + _BLOCK), following[start : start + _BLOCK]
        rows, shares = part.newest(context.max_length)
        unknown, nobody = np.full(len(part), np.nan, np.float32), np.zeros(len(part), np.int64)
        columns = (part.previous, candidates, unknown, nobody, rows, shares)
        scores.append(context.score(scorer, PairBatch(*(torch.from_numpy(column).to(device) for column in columns))))
    return torch.cat(scores)
