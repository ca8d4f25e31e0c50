"""Ranking metrics over the whole catalogue: recall@1/10/50, nDCG@10 and MRR of 100,000 queries, 200 dimensions."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.studying import sized
from experiments.throughput.by_vectors import ranker_of
from experiments.throughput.race import Contender, Stage, Work, work_of
from experiments.throughput.stages.lists import NUM_TRACKS, make_vectors, product_work


def make(folder: Path, small: bool) -> None:
    """Two queries per track, drawn uniformly. Real queries are mostly popular tracks and share more lines."""
    make_vectors(folder)
    rng = np.random.default_rng(2)
    num_previous = sized(2000 if small else NUM_TRACKS, 50)
    previous = rng.integers(0, num_previous, 2 * num_previous)
    following = (previous + rng.integers(1, NUM_TRACKS, len(previous))) % NUM_TRACKS
    np.save(folder / "pairs.npy", np.stack([previous, following]))


def data(folder: Path) -> tuple[Any, Any, Any]:
    previous, following = np.load(folder / "pairs.npy")
    return np.load(folder / "vectors.npy"), previous, following


def ours(vectors: Any, previous: Any, following: Any) -> Any:
    from segue.histories import Histories
    from segue.statistics import ranking

    return ranking.accuracy(ranker_of(vectors).ranks(Histories.of_tracks(previous), following)).mean()


def prepare_ours(folder: Path, _: bool) -> Work:
    vectors, previous, following = data(folder)

    return work_of(len(previous), ours, vectors, previous, following)


def prepare_torchmetrics(folder: Path, _: bool) -> Work:
    """The functions of torchmetrics, one query at a time, as its classes do; on 20 queries, checked against Segue."""
    import torch
    from torchmetrics.functional.retrieval import retrieval_normalized_dcg, retrieval_recall, retrieval_reciprocal_rank

    vectors, previous, following = data(folder)
    num_queries = 20
    query, target = torch.from_numpy(previous[:num_queries]), torch.from_numpy(following[:num_queries])
    table = torch.from_numpy(vectors)

    def metrics() -> torch.Tensor:
        scores = (table[query] @ table.T).add_(2)  # candidates whose score is not above 0 count as irrelevant there
        scores.scatter_(1, query[:, None], 0)
        lines = []
        for line, row in zip(scores, target, strict=True):
            relevant = torch.zeros(len(line), dtype=torch.bool)
            relevant[row] = True
            recalls = [retrieval_recall(line, relevant, top_k=k) for k in (1, 10, 50)]
            ndcg = retrieval_normalized_dcg(line, relevant, top_k=10)
            lines.append(torch.stack([*recalls, ndcg, retrieval_reciprocal_rank(line, relevant)]))
        return torch.stack(lines).mean(0)

    expected = ours(vectors, previous[:num_queries], following[:num_queries])
    assert np.allclose(metrics(), expected, atol=1e-3)
    return work_of(num_queries, metrics)


def prepare_ranx(folder: Path, _: bool) -> Work:
    """A run of dictionaries, as in the guide of ranx; on 4 queries, checked against Segue."""
    from ranx import Qrels, Run, evaluate

    vectors, previous, following = data(folder)
    num_queries = 4
    names = [str(row) for row in range(len(vectors))]

    def metrics() -> dict[str, float]:
        scores = (vectors[previous[:num_queries]] @ vectors.T).astype(np.float64)
        scores[np.arange(num_queries), previous[:num_queries]] = -2
        run = Run({names[place]: dict(zip(names, line.tolist(), strict=True)) for place, line in enumerate(scores)})
        qrels = Qrels({names[place]: {names[row]: 1} for place, row in enumerate(following[:num_queries])})
        values: dict[str, float] = evaluate(qrels, run, ["recall@1", "recall@10", "recall@50", "ndcg@10", "mrr"])
        return values

    expected = ours(vectors, previous[:num_queries], following[:num_queries])
    assert np.allclose(list(metrics().values()), expected, atol=1e-3)
    return work_of(num_queries, metrics)


def prepare_product(folder: Path, _: bool) -> Work:
    """Only the product of every distinct query with every item; nothing is ranked."""
    vectors, previous, _ = data(folder)
    work = product_work(vectors[np.unique(previous)], vectors)
    return work_of(len(previous), work)


STAGES = [
    Stage(
        name="ranking metrics",
        unit="queries",
        make=make,
        ours=Contender(name="Segue", prepare=prepare_ours),
        rivals=[
            Contender(name="torchmetrics", prepare=prepare_torchmetrics, at_least=20),
            Contender(name="ranx", prepare=prepare_ranx, at_least=20),
        ],
        limits=[Contender(name="the matrix product alone", prepare=prepare_product, at_least=0.5)],
    )
]
