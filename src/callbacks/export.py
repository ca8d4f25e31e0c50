"""After the test: the K next tracks of every track, from the weights under test."""

from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from src.console import progress
from src.models.retrieval import top_k
from src.recommendations import Recommendations, check_k


class Export(Callback):
    """Writes `recommendations.jsonl`.

    Args:
        path: where to write.
        k: how many candidates to keep for each track.
    """

    def __init__(self, *, path: str, k: int) -> None:
        self.path, self._k = Path(path), k

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Refuse a `k` that the catalogue cannot fill before anything is trained."""
        check_k(self._k, len(trainer.datamodule.catalog))  # type: ignore[attr-defined]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export all tracks of the catalogue."""
        vocabulary = trainer.datamodule.vocabulary  # type: ignore[attr-defined]
        num_tracks = len(vocabulary.catalog)
        with torch.inference_mode(), progress("exporting recommendations", num_tracks) as advance:
            rows, scores = top_k(
                queries=pl_module.scorer.query_vectors(),  # type: ignore[operator, union-attr]
                items=pl_module.scorer.item_vectors(),  # type: ignore[operator, union-attr]
                query_rows=torch.arange(num_tracks),
                k=self._k,
                plays=vocabulary.plays,
                on_block=advance,
            )
            Recommendations(rows=rows, scores=scores).write(self.path, vocabulary.catalog)
