"""What the scripts for other libraries share. It runs in their Python, therefore it imports numpy and torch alone.

Q queries, M tracks that a model knows, V width of a vector.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

PATIENCE = 3
"""Training ends when the best epoch is so many epochs ago."""
ASKS, VECTORS, FITTED = "How good are the vectors?", "vectors.npz", "fit"
"""What is printed after each epoch, the file that it is about, and the part that boosts are fitted to."""
QUERIES_AT_ONCE = 512
SCORES_AT_ONCE = 256
"""Lines of scores that are computed at once in training."""
POWER = 0.75
"""Of the plays of a track, by which candidates of a loss are drawn."""
Encode = Callable[[str], np.ndarray]
Tracks = Callable[[], tuple[np.ndarray, np.ndarray]]
Rows = Callable[[], np.ndarray]


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


def sampled_loss(
    queries: torch.Tensor, tracks: torch.Tensor, following: torch.Tensor, shares: torch.Tensor, number: int
) -> torch.Tensor:
    """An estimate of `softmax_loss`: of the other tracks some are drawn for all queries, and weighted by logQ.

    Args:
        queries: shape (Q, V).
        tracks: shape (M, V).
        following: number of the track that follows each, shape (Q,).
        shares: how often each track is drawn, shape (M,).
        number: of draws.
    """
    drawn, own = torch.multinomial(shares, number, replacement=True), (queries * tracks[following]).sum(1)
    others = queries @ tracks[drawn].T - (number * shares[drawn]).log()
    others = others.masked_fill(drawn == following[:, None], -torch.inf)
    return (torch.cat([own[:, None], others], 1).logsumexp(1) - own).mean()


def cut(session: torch.Tensor, length: int) -> list[torch.Tensor]:
    """Pieces of a session in which at most `length` tracks follow one; the last track of a piece begins the next."""
    return [session[start : start + length + 1] for start in range(0, len(session) - 1, length)]


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
        self.best, self.epoch_of_best = -1.0, 0
        self._shares: torch.Tensor | None = None
        self.state: dict[str, torch.Tensor] = {}
        self.curve: list[tuple[float, float]] = []
        self._started, self._paused = time.process_time(), 0.0

    def loss(self, queries: torch.Tensor, tracks: torch.Tensor, following: torch.Tensor, rows: Rows) -> torch.Tensor:
        """The softmax over all tracks, or over `sampled` candidates where that setting is not 0.

        Args:
            queries: shape (Q, V).
            tracks: shape (M, V).
            following: number of the track that follows each, shape (Q,).
            rows: looks up our row of each of the M tracks; -1 for padding.
        """
        if not self.settings["sampled"]:
            return softmax_loss(queries, tracks, following)
        if self._shares is None:
            own, plays = rows(), np.bincount(self.given["track"])
            powers = torch.from_numpy(np.where(own < 0, 0, plays[own]) ** POWER).float()
            self._shares = powers / powers.sum()
        return sampled_loss(queries, tracks, following, self._shares, self.settings["sampled"])

    def is_finished(self, network: torch.nn.Module, encode: Encode, tracks: Tracks) -> bool:
        """Ask how good an epoch is, and keep its weights if it is the best. This time does not count as training.

        Args:
            network: is without dropout meanwhile.
            encode: computes the vectors of the queries of a part.
            tracks: computes rows and vectors of the tracks that the model knows.
        """
        began = time.process_time()
        network.eval()
        self._write([part for part in self.parts if part != "test"], encode, tracks)
        network.train()
        print(f"\n{ASKS}", flush=True)
        value = float(sys.stdin.readline())
        self.curve.append((began - self._started - self._paused, value))
        if value > self.best:
            self.best, self.epoch_of_best = value, len(self.curve)
            self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        self._paused += time.process_time() - began
        return len(self.curve) - self.epoch_of_best >= PATIENCE or len(self.curve) >= self.max_epochs

    def finish(self, network: torch.nn.Module, encode: Encode, tracks: Tracks) -> None:
        """Write the vectors of the best epoch, the training time, and the training time and ndcg@10 of each epoch."""
        seconds = time.process_time() - self._started - self._paused
        network.load_state_dict(self.state)
        network.eval()
        self._write(self.parts, encode, tracks, fit_s=seconds, curve=self.curve)

    def _write(self, parts: list[str], encode: Encode, tracks: Tracks, **more: Any) -> None:
        item_rows, items = tracks()
        arrays: dict[str, Any] = {f"queries_{part}": encode(part) for part in parts}
        np.savez(self.folder / VECTORS, **arrays, item_rows=item_rows, items=items, **more)

    def padded(self, part: str, inner: np.ndarray) -> np.ndarray:
        """The newest tracks of histories, newest first, as numbers of the library; 0 after the last.

        Tracks that the model does not know are skipped.

        Args:
            part: `val`, `test` or FITTED.
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
