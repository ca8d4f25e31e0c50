"""The files of a small run, for tests of what is made of them: its vectors, its lists, and the model itself."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from segue.catalog import Catalog
from segue.models.export import Export
from segue.models.pair_ranker import PairRanker
from segue.runs.recommendations import SCORE_DECIMALS, Recommendations
from segue.runs.session_vectors import FILE, SessionVectors
from tests.conftest import make_vocabulary
from tests.contracts.building import make_ranker

NUM = 40
K = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class ExportedRun:
    ranker: PairRanker
    catalog: Catalog
    vectors: SessionVectors
    lists: Recommendations


def exported_run(folder: Path, *, model: str, context: str) -> ExportedRun:
    """A run as it would be exported; its weights are random, item biases too."""
    vocabulary = make_vocabulary(row // 4 for row in range(NUM))
    ranker = make_ranker(model, vocabulary, context)
    assert isinstance(ranker, PairRanker)
    for table in ranker.modules():
        if isinstance(table, nn.Embedding):
            nn.init.normal_(table.weight)
    Export(NUM, path=str(folder / "recommendations.jsonl"), k=K).write(ranker.eval(), vocabulary, lambda _: None)
    lists, catalog = Recommendations.read_with_catalog(folder / "recommendations.jsonl")
    vectors = SessionVectors.read(folder / FILE, catalog)
    return ExportedRun(ranker=ranker, catalog=catalog, vectors=vectors, lists=lists)


def assert_are_the_lists(run: ExportedRun, scores: Float[np.ndarray, "N N"]) -> None:
    """The best tracks by scores of every track after every other are the recommendations of the run."""
    scores = scores.round(SCORE_DECIMALS)
    np.fill_diagonal(scores, -np.inf)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    np.testing.assert_array_equal(best, run.lists.rows)
    np.testing.assert_allclose(np.take_along_axis(scores, best, 1), run.lists.scores, atol=1e-5)


def torch_queries(run: ExportedRun, rows: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """What the model itself gives for sessions."""
    with torch.inference_mode():
        tensors = torch.from_numpy(rows[:, 0]), torch.from_numpy(rows), torch.from_numpy(shares)
        queries = run.ranker.context.queries(run.ranker.scorer, *tensors)
        return queries.vectors[queries.of_pair].numpy()
