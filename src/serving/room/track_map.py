"""The map: every track as a point, near the tracks that follow it.

N tracks, K tracks of a list, E pairs of a track and one that follows it. The first arm with lists gives the pairs. The
points start at two main directions of the graph of the pairs; then each pair attracts, and random pairs repel each
other, as in UMAP.

Source: McInnes, Healy and Melville, UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction, 2018,
section 3.2 (attractive and repulsive forces, with a = b = 1).
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64

from segue.atomic import write_whole

_NUM_NEIGHBOURS = 8  # tracks of each list that attract
_NUM_ROUNDS = 60  # of attraction and repulsion
_NUM_ITERATIONS = 60
_NUM_REPELLED = 4
_SPREAD = 15.0  # standard deviation of the first places, in units of the distance at which a pair attracts most
_REPULSION = 4.0  # of random pairs, relative to UMAP: the points then cover the map, and clusters stay visible
_MAX_STEP = 4.0


def layout(lists: Int32[np.ndarray, "N K"], *, seed: int = 0) -> Float32[np.ndarray, "N 2"]:
    """A place in [-1, 1]² for each track.

    Args:
        lists: rows of the tracks that follow each track; -1 for none.
        seed: of the first places, and of the repulsion.
    """
    num, rng = len(lists), np.random.default_rng(seed)
    if num < 3:
        return np.linspace(-0.5, 0.5, 2 * num, dtype=np.float32).reshape(num, 2)
    near = lists[:, :_NUM_NEIGHBOURS].astype(np.int64)
    pairs = np.stack([np.repeat(np.arange(num), near.shape[1]), near.reshape(-1)])
    pairs = pairs[:, pairs[1] >= 0]
    points = _directions_of_graph(pairs, num, rng) * np.float32(_SPREAD)
    points = _settled(points + rng.normal(0, 0.01, points.shape).astype(np.float32), pairs, rng)
    low, high = np.quantile(points, [0.002, 0.998], axis=0)
    half = np.maximum((high - low) / 2, 1e-6)
    return np.asarray(np.clip((points - (low + high) / 2) / (1.02 * half), -1, 1), np.float32)


def _directions_of_graph(
    pairs: Int64[np.ndarray, "2 E"], num: int, rng: np.random.Generator
) -> Float32[np.ndarray, "N 2"]:
    """Two slow directions of a random walk on the pairs, by orthogonal iteration: linked tracks get similar places."""
    degree = np.maximum(np.bincount(pairs.reshape(-1), minlength=num), 1)[:, None]
    points = rng.standard_normal((num, 2))
    for _ in range(_NUM_ITERATIONS):
        near = _summed(pairs[0], points[pairs[1]], num) + _summed(pairs[1], points[pairs[0]], num)
        points = (points + near / degree) / 2
        points, _ = np.linalg.qr(points - points.mean(0))
    return np.asarray(points * np.sqrt(num), np.float32)


def _settled(
    points: Float32[np.ndarray, "N 2"], pairs: Int64[np.ndarray, "2 E"], rng: np.random.Generator
) -> Float32[np.ndarray, "N 2"]:
    num = len(points)
    degree = np.maximum(np.bincount(pairs.reshape(-1), minlength=num), 1)[:, None].astype(np.float32)
    for round_ in range(_NUM_ROUNDS):
        rate = np.float32(1 - round_ / _NUM_ROUNDS)
        away = points[pairs[0]] - points[pairs[1]]
        squared = (away**2).sum(1, keepdims=True)
        pull = -away / (1 + squared)
        moved = _summed(pairs[0], pull, num) - _summed(pairs[1], pull, num)
        moved *= np.minimum(degree, _NUM_NEIGHBOURS) / degree  # a track in many lists moves no faster than the others
        for _ in range(_NUM_REPELLED):
            other = rng.integers(0, num, num)
            away = points - points[other]
            squared = (away**2).sum(1, keepdims=True)
            push = 2 * away / ((0.01 + squared) * (1 + squared))
            moved += np.clip(push, -_MAX_STEP, _MAX_STEP) * np.float32(_REPULSION * _NUM_NEIGHBOURS / _NUM_REPELLED)
        points = points + rate * np.clip(moved / _NUM_NEIGHBOURS, -_MAX_STEP, _MAX_STEP)
    return np.asarray(points, np.float32)


def _summed(rows: Int64[np.ndarray, "E"], steps: Float[np.ndarray, "E 2"], num: int) -> Float32[np.ndarray, "N 2"]:
    return np.stack([np.bincount(rows, steps[:, axis], num) for axis in (0, 1)], 1).astype(np.float32)


def write_layout(path: Path, lists: Int32[np.ndarray, "N K"]) -> None:
    """Compute a layout and write it; runs in a process of its own.

    Args:
        path: the file, a `.npy`.
        lists: the argument of `layout`.
    """
    points = layout(lists)
    write_whole(path, lambda partial: np.save(partial, points, allow_pickle=False))
