"""The `LightningModule` of every baseline: it counts once, and ranks by what was counted.

N tracks in the catalogue, Q queries, K candidates, B queries of a block.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from pytorch_lightning import LightningModule
from scipy.sparse import csr_array
from torch import Tensor
from torch.optim import Optimizer

from src.catalog import Listens, Vocabulary
from src.errors import InputError, build, check_number
from src.models.baselines.counting import nothing_counted
from src.models.contracts import OnBlock
from src.models.retrieval.sparse import mean_ranks, top_k


@runtime_checkable
class Counter(Protocol):
    """What a baseline counts; built from the vocabulary and its settings."""

    artist_weight: int | float
    """Added to the score of a track by the artist of the query."""
    order: Int64[np.ndarray, "N"]
    """Where scores tie, the track that has more of this comes first: its plays, unless the model says otherwise."""

    def count(self, listens: Listens) -> csr_array:
        """Scores of candidates (columns) for queries (rows), positive where there is one."""
        ...


class Baseline(LightningModule):
    """Counts the training sessions once and learns nothing else: no loss, no gradients, no predicted share.

    Args:
        vocabulary: the catalogue and what the training pairs show of it.
        model: makes what is counted from the vocabulary.
        monitor: the metric that chooses the best epoch.

    Raises:
        InputError: the model refuses its settings, or `monitor` is nothing that can be computed without a loss.
    """

    def __init__(
        self,
        *,
        vocabulary: Vocabulary,
        model: Callable[[Vocabulary], Counter],
        monitor: str,
    ) -> None:
        super().__init__()
        self.scorer = self.loss = None
        self.automatic_optimization = False
        self._model = build("model", model, vocabulary)
        if not isinstance(self._model, Counter):
            raise InputError(
                f"model makes a {type(self._model).__name__}, which counts nothing; leave out recipe=counting, so that "
                "the source names its recipe"
            )
        check_number("artist_weight", self._model.artist_weight, least=0, hint="0 for artists that do not matter")
        if monitor in ("val/loss", "val/mse", "val/mae"):
            raise InputError(f"monitor.metric={monitor} cannot be computed: this model only ranks; use monitor=ndcg")
        self._vocabulary, self._counted = vocabulary, nothing_counted(len(vocabulary.catalog))

    def on_train_start(self) -> None:
        """Count."""
        self._counted = self._model.count(self._vocabulary.listens)

    def ranks(
        self, previous: Int64[np.ndarray, "Q"], following: Int64[np.ndarray, "Q"], on_block: OnBlock
    ) -> Float64[np.ndarray, "Q"]:
        """Rank of each `following` among all candidates of its `previous`; see `retrieval/sparse.py`."""
        return mean_ranks(
            scores=self._scores,
            plays=self._model.order,
            previous=previous,
            following=following,
            on_block=on_block,
        )

    def top(
        self, query_rows: Int64[np.ndarray, "Q"], k: int, on_block: OnBlock
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """The K best candidates of each query and their scores; see `retrieval/sparse.py`."""
        return top_k(scores=self._scores, plays=self._model.order, query_rows=query_rows, k=k, on_block=on_block)

    def approximate_top(
        self,
        query_rows: Int64[np.ndarray, "Q"],
        k: int,
        recall: float,  # noqa: ARG002 - the scores of a track are few, so exact lists are fast
        on_block: OnBlock,
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"], None]:
        """The exact lists."""
        return *self.top(query_rows, k, on_block), None

    def _scores(self, rows: Int64[np.ndarray, "B"]) -> csr_array:
        counted = csr_array(self._counted[rows])
        if weight := self._model.artist_weight:
            counted = csr_array(counted + weight * _same_artist(self._vocabulary.catalog.artist_of, rows))
        return counted

    def get_extra_state(self) -> dict[str, Tensor]:
        """What was counted; its size is not known before, as that of a buffer would have to be."""
        parts = {"scores": self._counted.data, "columns": self._counted.indices, "starts": self._counted.indptr}
        return {name: torch.from_numpy(part) for name, part in parts.items()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `get_extra_state` gave."""
        parts = tuple(state[name].numpy(force=True) for name in ("scores", "columns", "starts"))
        self._counted = csr_array(parts, shape=self._counted.shape)

    def configure_optimizers(self) -> Optimizer:
        """Of a number that nobody uses: Lightning keeps no checkpoint of a model that has taken no step."""
        return torch.optim.SGD([torch.zeros(())], lr=0.0)

    def training_step(self, batch: Any, _: int) -> None:  # noqa: ARG002 - pairs are not needed
        """Take the step that the checkpoint asks for."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.step()

    def validation_step(self, batch: Any, _: int) -> None:
        """Nothing: `callbacks/ranking_metrics.py` does it all."""

    def test_step(self, batch: Any, _: int) -> None:
        """Nothing: `callbacks/ranking_metrics.py` does it all."""


def _same_artist(artist_of: Int64[np.ndarray, "N"], rows: Int64[np.ndarray, "B"]) -> csr_array:
    """1 where a track is by the artist of the query, the query itself among them."""
    by_artist = np.argsort(artist_of, kind="stable")
    sizes = np.bincount(artist_of)
    size = sizes[artist_of[rows]]
    starts = np.concatenate([[0], np.cumsum(size)])
    first = (np.cumsum(sizes) - sizes)[artist_of[rows]]
    tracks = by_artist[np.arange(starts[-1]) + np.repeat(first - starts[:-1], size)]
    return csr_array((np.ones(len(tracks), np.float32), tracks, starts), shape=(len(rows), len(artist_of)))
