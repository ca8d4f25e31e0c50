"""Exact top 50 of every track of a catalogue, 200 dimensions."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.studying import sized
from experiments.throughput.by_vectors import ranker_of
from experiments.throughput.race import Contender, Stage, Work

K = 50
WIDTH = 200
NUM_TRACKS = sized(50_000, 2_000)


def queries_of(vectors: Any, small: bool) -> Any:
    """All queries, or 3,000 for the small size; the catalogue is the same, because all costs grow with it."""
    return vectors[:3000] if small else vectors


def make_vectors(folder: Path) -> None:
    """Unit vectors near those of their artists, as in a trained head."""
    rng = np.random.default_rng(1)
    artists = rng.standard_normal((NUM_TRACKS // 4, WIDTH), np.float32)
    vectors = artists[rng.integers(0, len(artists), NUM_TRACKS)]
    vectors += rng.standard_normal(vectors.shape, np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(folder / "vectors.npy", vectors)


def make(folder: Path, _: bool) -> None:
    """Write vectors; check that Segue gives the lists of a float64 oracle and of faiss, except for ties."""
    make_vectors(folder)
    vectors = np.load(folder / "vectors.npy")
    some = np.arange(0, len(vectors), len(vectors) // 200)
    rows, scores = search(vectors, some)
    exact = vectors[some].astype(np.float64) @ vectors.T.astype(np.float64)
    exact[np.arange(len(some)), some] = -np.inf
    best = -np.sort(-exact, axis=1)[:, :K]
    assert (
        np.abs(np.take_along_axis(exact, rows, 1) - best).max() < 2e-6
    )  # the listed tracks score as high as the best ones
    assert np.abs(scores - best).max() < 2e-6
    import faiss

    index = faiss.IndexFlatIP(WIDTH)
    index.add(vectors)
    _, theirs = index.search(vectors[some], K + 1)
    for query, our_rows, their_rows, line in zip(some, rows, theirs, exact, strict=True):
        differ = np.setxor1d(our_rows, their_rows[their_rows != query][:K])
        assert len(differ) == 0 or np.ptp(line[differ]) < 2e-6


def search(vectors: Any, query_rows: Any) -> Any:
    return ranker_of(vectors).lists(K, query_rows).collect()


def prepare_ours(folder: Path, small: bool) -> Work:
    vectors = np.load(folder / "vectors.npy")
    rows = np.arange(len(queries_of(vectors, small)))
    return lambda: len(search(vectors, rows)[0])


def prepare_faiss(folder: Path, small: bool) -> Work:
    """All queries in one call, as in the wiki of faiss."""
    import faiss

    vectors = np.load(folder / "vectors.npy")
    index = faiss.IndexFlatIP(WIDTH)
    index.add(vectors)
    return lambda: len(index.search(queries_of(vectors, small), K + 1)[0])


def prepare_implicit(folder: Path, small: bool) -> Work:
    """The function that `recommend` and `similar_items` of implicit's models call, in their batches."""
    from implicit.cpu.topk import topk

    vectors = np.load(folder / "vectors.npy")
    return lambda: len(topk(vectors, queries_of(vectors, small), K + 1)[0])


def prepare_sheet(folder: Path, _: bool) -> Work:
    """The code of the 2023 notebook: a product and an argpartition for each track; on 50 tracks."""
    vectors = np.load(folder / "vectors.npy")
    some = vectors[:50]

    def work() -> float:
        for vector in some:
            scores = -np.dot(vectors, vector)
            best = np.argpartition(scores, K)[:K]
            best[scores[best].argsort()].tolist()
        return len(some)

    return work


def prepare_product(folder: Path, small: bool) -> Work:
    """Only the product of every query with every item, in blocks of the fastest size."""
    vectors = np.load(folder / "vectors.npy")
    return product_work(queries_of(vectors, small), vectors)


def product_work(queries: Any, items: Any) -> Work:
    import time

    import torch

    lines, columns = torch.from_numpy(queries), torch.from_numpy(items).T
    buffer = torch.empty(1024, len(items))

    def work(block: int, num_queries: int = len(lines)) -> float:
        for some in lines[:num_queries].split(block):
            torch.mm(some, columns, out=buffer[: len(some)])
        return num_queries

    def seconds(block: int) -> float:
        start = time.perf_counter()
        work(block, 2048)
        return time.perf_counter() - start

    work(1024, 1024)
    best = min((128, 256, 512, 1024), key=lambda block: min(seconds(block) for _ in range(3)))
    return lambda: work(best)


STAGES = [
    Stage(
        name="exact top 50",
        unit="queries",
        make=make,
        ours=Contender(name="Segue", prepare=prepare_ours),
        rivals=[
            Contender(name="faiss IndexFlatIP", prepare=prepare_faiss, at_least=1.5),
            Contender(name="implicit topk", prepare=prepare_implicit),
            Contender(name="the sheet: one query at a time", prepare=prepare_sheet),
        ],
        limits=[Contender(name="the matrix product alone", prepare=prepare_product, at_least=0.5)],
    )
]
