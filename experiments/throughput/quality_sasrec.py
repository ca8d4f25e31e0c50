"""SASRec of RecTools, trained in a Python of its own: `quality.py --rectools <python>` starts this file.

Reads sessions and queries from a file, and trains. At each evaluation it writes the vectors of the queries and of the
tracks, prints the training time, and waits for a line that says whether to go on. It imports nothing of `src/`, which
needs another version of pandas.
"""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.throughput.quality_clock import Clock

SETTINGS: dict[str, Any] = {
    "n_factors": 64,
    "n_blocks": 2,
    "n_heads": 2,
    "session_max_len": 20,
    "dropout_rate": 0.2,
    "loss": "softmax",
    "lr": 1e-2,
    "batch_size": 128,
}
EPOCHS = 1000
"""More than it can train in the time that it has."""
QUERIES_AT_ONCE = 512


class Evaluate(Callback):
    """Hands the vectors to `quality.py` when they are due, and stops when it says so."""

    def __init__(self, clock: Clock, folder: Path, queries: np.ndarray) -> None:
        self.clock, self.folder, self.queries = clock, folder, queries
        self.model: Any = None

    def __deepcopy__(self, _: object) -> "Evaluate":
        return self  # RecTools copies the trainer and its callbacks; there is one clock

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Write the vectors, and wait for the answer, if it is time."""
        if not self.clock.is_due:
            return
        with self.clock.evaluation() as seconds:
            self.write()
            print(seconds, flush=True)
            trainer.should_stop = sys.stdin.readline().strip() != "go"

    @torch.inference_mode()
    def write(self) -> None:
        """Write the vectors of the queries, of which each is one track, and of all tracks."""
        network, id_map = self.model.torch_model, self.model.data_preparator.item_id_map
        network.eval()
        tracks = self.model.data_preparator.get_known_item_ids().astype(np.int64)
        known = np.intersect1d(self.queries, tracks)
        embeddings = network.item_model.get_all_embeddings()
        sessions = torch.zeros(len(known), SETTINGS["session_max_len"], dtype=torch.int64)
        sessions[:, -1] = torch.from_numpy(np.asarray(id_map.convert_to_internal(known)))  # one track, after padding
        encoded = [network.encode_sessions({"x": part}, embeddings)[:, -1] for part in sessions.split(QUERIES_AT_ONCE)]
        items = embeddings[torch.from_numpy(np.asarray(id_map.convert_to_internal(tracks)))]
        network.train()
        np.savez(
            self.folder / "vectors.npz",
            query_rows=known,
            queries=torch.cat(encoded).numpy(),
            item_rows=tracks,
            items=items.numpy(),
        )


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    given = np.load(folder / "sessions.npz")
    session, track = given["session"], given["track"]
    seed_everything(seed, verbose=False)
    clock = Clock()
    evaluate = Evaluate(clock, folder, given["queries"])
    place = pd.to_datetime(np.arange(len(track)), unit="s")  # RecTools sorts a session by time
    frame = pd.DataFrame({Columns.User: session, Columns.Item: track, Columns.Weight: 1.0, Columns.Datetime: place})

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=EPOCHS,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[evaluate],
        )

    evaluate.model = SASRecModel(**SETTINGS, get_trainer_func=trainer)
    evaluate.model.fit(Dataset.construct(frame))


if __name__ == "__main__":
    main()
