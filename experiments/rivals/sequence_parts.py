"""What the scripts for other libraries share. It runs in their Python, therefore it imports numpy and torch alone.

Q queries, M tracks that a model knows, V width of a vector, H tracks of a history.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

PATIENCE = 3
"""Training ends when the best epoch is so many epochs ago."""
QUERIES_AT_ONCE = 512
SCORES_AT_ONCE = 256
"""Lines of scores that are computed at once in training."""


class _Softmax(torch.autograd.Function):
    """Cross-entropy of all tracks, whose gradient is computed at once, while the scores are in the cache."""

    @staticmethod
    def forward(context: Any, queries: torch.Tensor, tracks: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        of_queries, of_tracks = torch.empty_like(queries), torch.zeros_like(tracks)
        total = queries.new_zeros(())
        for start in range(0, len(queries), SCORES_AT_ONCE):
            part = slice(start, start + SCORES_AT_ONCE)
            scores, target = queries[part] @ tracks.T, following[part, None]
            scale = scores.logsumexp(1, keepdim=True)
            total += (scale - scores.gather(1, target)).sum()
            gradient = scores.sub_(scale).exp_()
            gradient.scatter_add_(1, target, -torch.ones_like(target, dtype=gradient.dtype))
            torch.mm(gradient, tracks, out=of_queries[part])
            of_tracks.addmm_(gradient.T, queries[part])
        context.save_for_backward(of_queries / len(queries), of_tracks / len(queries))
        return total / len(queries)

    @staticmethod
    def backward(context: Any, factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        of_queries, of_tracks = context.saved_tensors
        return factor * of_queries, factor * of_tracks, None


def softmax_loss(queries: torch.Tensor, tracks: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """What `cross_entropy(queries @ tracks.T, following)` is, in less time.

    Args:
        queries: shape (Q, V).
        tracks: shape (M, V).
        following: number of the track that follows each, shape (Q,).
    """
    found: torch.Tensor = _Softmax.apply(queries, tracks, following)  # type: ignore[no-untyped-call]  # torch has no type
    return found


def cut(session: torch.Tensor, length: int) -> list[torch.Tensor]:
    """Pieces of a session in which at most `length` tracks follow one; the last track of a piece begins the next."""
    return [session[start : start + length + 1] for start in range(0, len(session) - 1, length)]


def query_arrays(given: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """The validation or test queries as `ranks_by_vectors` takes them.

    Args:
        given: what `fitting.py` knows of the data; `within` is the number of newest tracks that come last.
        part: `val` or `test`.
    """
    return {
        "heard": given[f"history_{part}"][:, : int(given["within"])],
        "previous": given[f"previous_{part}"],
        "following": given[f"following_{part}"],
        "plays": given["plays"],
    }


def ranks_by_vectors(
    queries: np.ndarray,
    *,
    items: np.ndarray,
    item_rows: np.ndarray,
    heard: np.ndarray,
    previous: np.ndarray,
    following: np.ndarray,
    plays: np.ndarray,
) -> np.ndarray:
    """Rank by inner products with the rules of the baselines.

    Tracks without a vector come after all others, by plays; tracks that were heard come last. Candidates that tie share
    the mean of the ranks they occupy. `previous` is no candidate.

    Args:
        queries: a vector for each query; all 0 where the model knows no track of the session.
        items: a vector for each track that the model knows.
        item_rows: rows of these tracks.
        heard: rows of the tracks of each session, -1 where there is none.
        previous: row that is no candidate.
        following: row that is ranked.
        plays: plays of each track in training.
    """
    ranks = np.empty(len(queries))
    base = plays / (plays.max() + 1) - 2e6  # float64: plays stay distinct
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        scores = np.tile(base, (len(queries[part]), 1))
        scores[:, item_rows] = queries[part] @ items.T
        unknown = ~queries[part].any(1)
        scores[unknown] = base
        line, place = (heard[part] >= 0).nonzero()
        scores[line, heard[part][line, place]] = base[heard[part][line, place]] - 1e6
        lines = np.arange(len(scores))
        of_target = scores[lines, following[part]][:, None].copy()
        scores[lines, previous[part]] = -np.inf
        ranks[part] = (scores > of_target).sum(1) + ((scores == of_target).sum(1) + 1) / 2
    return ranks


class Task:
    """What `fitting.py` left in a folder, the best epoch so far, and the clock.

    Args:
        defaults: settings of the first trial by name; others get their types from them.
    """

    def __init__(self, defaults: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        self.folder = Path(sys.argv[1])
        with np.load(self.folder / "sessions.npz") as file:
            self.given: dict[str, np.ndarray] = dict(file)
        own = json.loads((self.folder / "settings.json").read_text(encoding="utf-8"))
        self.seed, self.max_epochs = int(own.pop("seed")), int(own.pop("max_epochs"))
        self.settings = {name: type(value)(own.get(name, value)) for name, value in defaults.items()}
        self.parts = [name.removeprefix("history_") for name in self.given if name.startswith("history_")]
        self.best, self.epoch_of_best, self.epoch = -1.0, 0, 0
        self.state: dict[str, torch.Tensor] = {}
        self.curve: list[tuple[float, float]] = []
        self._started, self._paused = time.process_time(), 0.0

    def is_finished(
        self, network: torch.nn.Module, queries: np.ndarray, item_rows: np.ndarray, items: np.ndarray, started: float
    ) -> bool:
        """Compare an epoch with the best, and keep its weights if it is better.

        Args:
            network: whose weights are kept.
            queries: vectors of the validation queries.
            item_rows: rows of the tracks that the model knows.
            items: their vectors.
            started: processor time at which the evaluation began; it does not count as training.
        """
        value = self._ndcg(queries, item_rows, items)
        self.epoch += 1
        self.curve.append((started - self._started - self._paused, value))
        if value > self.best:
            self.best, self.epoch_of_best = value, self.epoch
            self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        self._paused += time.process_time() - started
        return self.epoch - self.epoch_of_best >= PATIENCE or self.epoch >= self.max_epochs

    def _ndcg(self, queries: np.ndarray, item_rows: np.ndarray, items: np.ndarray) -> float:
        """ndcg@10 of the validation queries, by the ranks of which the final metrics are too."""
        ranks = ranks_by_vectors(queries, items=items, item_rows=item_rows, **query_arrays(self.given, "val"))
        return float(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0).mean())

    def padded(self, part: str, inner: np.ndarray) -> np.ndarray:
        """The newest tracks of histories, newest first, as numbers of the library; 0 after the last.

        Tracks that the model does not know are skipped.

        Args:
            part: `val` or `test`.
            inner: number of each row in the library; 0 where the model does not know it.
        """
        history = self.given[f"history_{part}"]
        known = np.where(history >= 0, inner[history], 0)
        order = np.argsort(known == 0, axis=1, kind="stable")
        known = np.take_along_axis(known, order, axis=1)[:, : self.settings["max_length"]]
        return np.pad(known, ((0, 0), (0, self.settings["max_length"] - known.shape[1])))

    def num_rows(self) -> int:
        """One more than the largest row that occurs."""
        return 1 + max(
            int(self.given["track"].max()), *(int(self.given[f"history_{part}"].max()) for part in self.parts)
        )

    def write(self, queries: dict[str, np.ndarray], item_rows: np.ndarray, items: np.ndarray) -> None:
        """Write the vectors of the best epoch, the training time, and the training time and ndcg@10 of each epoch.

        Args:
            queries: vectors of the queries of each part.
            item_rows: rows of the tracks that the model knows.
            items: their vectors.
        """
        seconds = time.process_time() - self._started - self._paused
        arrays: dict[str, Any] = {f"queries_{part}": vectors for part, vectors in queries.items()}
        arrays |= {"fit_s": seconds, "curve": self.curve}
        np.savez(self.folder / "vectors.npz", **arrays, item_rows=item_rows, items=items)
