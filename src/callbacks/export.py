"""After the test: the K next tracks of every track, from the weights under test."""

from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from src.catalog_files import write_top_tracks
from src.datamodules.pair_datamodule import PairDataModule
from src.errors import InputError, check_number
from src.models.pair_ranker import PairRanker
from src.recommendations import Recommendations, check_k
from src.terminal.console import console
from src.terminal.progress import progress

NUM_TOP_TRACKS = 1000
"""Most played tracks of the training data that are written."""
INDEXES = ("auto", "exact", "approximate")


class Export(Callback):
    """Writes `recommendations.jsonl`, and beside it `top_tracks.json`, from which a service fills up.

    Args:
        datamodule: the data, set up.
        path: where to write.
        k: how many candidates to keep for each track.
        index: search `exact` or `approximate`, or `auto`, which is exact for small catalogues.
        approximate_above: tracks up to which `auto` is exact.
        recall: share of the exact lists that an approximate search aims at, in (0, 1].

    Raises:
        InputError: the catalogue cannot fill `k` places, or another argument breaks its law.
    """

    def __init__(
        self, datamodule: PairDataModule, *, path: str, k: int, index: str, approximate_above: int, recall: float
    ) -> None:
        num_tracks = len(datamodule.catalog)
        check_k(k, num_tracks)
        if index not in INDEXES:
            raise InputError(f"callbacks.export.index must be one of {', '.join(INDEXES)}, got {index!r}")
        check_number("callbacks.export.approximate_above", approximate_above, whole=True, least=0)
        check_number("callbacks.export.recall", recall, above=0, most=1)
        self._datamodule, self._path, self._k, self._recall = datamodule, Path(path), k, recall
        self._approximate = index == "approximate" or (index == "auto" and num_tracks > approximate_above)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export all tracks of the catalogue."""
        vocabulary = self._datamodule.vocabulary
        num_tracks = len(vocabulary.catalog)
        with torch.inference_mode(), progress("exporting recommendations", num_tracks) as advance:
            query_rows = np.arange(num_tracks)
            if self._approximate and isinstance(pl_module, PairRanker):  # the counts of a baseline are few for a track
                rows, scores, recall = pl_module.approximate_top(query_rows, self._k, self._recall, advance)
                self._report(trainer, recall)
            else:
                rows, scores = pl_module.top(query_rows, self._k, advance)  # type: ignore[operator]
            Recommendations(rows=rows, scores=scores).write(self._path, vocabulary.catalog)
        most_played = np.argsort(-vocabulary.plays, kind="stable")[:NUM_TOP_TRACKS]
        write_top_tracks(vocabulary.catalog.track_ids[most_played], self._path.with_name("top_tracks.json"))

    def _report(self, trainer: Trainer, recall: float) -> None:
        name = f"export/recall_at_{self._k}"
        trainer.callback_metrics[name] = torch.tensor(recall)  # from where `metrics.json` takes it
        for logger in trainer.loggers:
            logger.log_metrics({name: recall})
        share = f"{recall:.1%} of the exact lists of a sample"
        if recall < self._recall:
            share += f", less than callbacks.export.recall={self._recall}"
        line = f"recommendations are approximate: they hold {share}; callbacks.export.index=exact takes longer"
        console.print(line, soft_wrap=True)
