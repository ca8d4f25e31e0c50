"""After the test: the K next tracks of every track, from the weights under test."""

from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from src.catalog_files import write_top_tracks
from src.console import progress
from src.datamodules.pair_datamodule import PairDataModule
from src.recommendations import Recommendations, check_k

NUM_TOP_TRACKS = 1000
"""Most played tracks of the training data that are written."""


class Export(Callback):
    """Writes `recommendations.jsonl`, and beside it `top_tracks.json`, from which a service fills up.

    Args:
        datamodule: the data, set up.
        path: where to write.
        k: how many candidates to keep for each track.

    Raises:
        InputError: the catalogue cannot fill `k` places.
    """

    def __init__(self, datamodule: PairDataModule, *, path: str, k: int) -> None:
        check_k(k, len(datamodule.catalog))
        self._datamodule, self._path, self._k = datamodule, Path(path), k

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Export all tracks of the catalogue."""
        vocabulary = self._datamodule.vocabulary
        num_tracks = len(vocabulary.catalog)
        with torch.inference_mode(), progress("exporting recommendations", num_tracks) as advance:
            rows, scores = pl_module.top(np.arange(num_tracks), self._k, advance)  # type: ignore[operator]
            Recommendations(rows=rows, scores=scores).write(self._path, vocabulary.catalog)
        most_played = np.argsort(-vocabulary.plays, kind="stable")[:NUM_TOP_TRACKS]
        write_top_tracks(vocabulary.catalog.track_ids[most_played], self._path.with_name("top_tracks.json"))
