"""SASRec of RecTools, trained in a Python of its own; `fitting.py` starts it with a folder.

It imports nothing of `src/`, which needs another version of pandas.
"""

import logging
import sys
import time
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
from experiments.rivals.sequence_parts import MAX_EPOCHS, QUERIES_AT_ONCE, Task

DEFAULTS = {"dim": 128, "blocks": 2, "heads": 1, "dropout": 0.2, "lr": 0.001, "max_length": 20, "batch": 128}
"""Settings of the first trial: RecTools' own, with the width and the number of tracks that convex has."""


class Evaluate(Callback):
    """Stops the training when it is finished."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model: Any = None

    def __deepcopy__(self, _: object) -> "Evaluate":
        return self  # RecTools copies the trainer and its callbacks

    def on_train_epoch_end(self, trainer: Trainer, *_: object) -> None:
        """Compare the epoch with the best."""
        started = time.process_time()
        queries = encode(self.model, self.task, "val")
        trainer.should_stop = self.task.is_finished(self.model.torch_model, queries, *tracks_of(self.model), started)


@torch.inference_mode()
def tracks_of(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows and vectors of the tracks that the model knows."""
    rows = np.sort(model.data_preparator.get_known_item_ids().astype(np.int64))
    inner = np.asarray(model.data_preparator.item_id_map.convert_to_internal(rows))
    return rows, model.torch_model.item_model.get_all_embeddings()[torch.from_numpy(inner)].numpy()


@torch.inference_mode()
def encode(model: Any, task: Task, part: str) -> np.ndarray:
    """Vectors of the sessions so far; 0 where the model knows none of their tracks."""
    network, preparator = model.torch_model, model.data_preparator
    rows = preparator.get_known_item_ids().astype(np.int64)
    inner = np.zeros(task.num_rows(), np.int64)
    inner[rows] = np.asarray(preparator.item_id_map.convert_to_internal(rows))
    sessions = task.padded(part, inner)[:, ::-1].copy()  # the newest track is the last, after padding
    was_training = network.training
    network.eval()
    embeddings = network.item_model.get_all_embeddings()
    blocks = torch.from_numpy(sessions).split(QUERIES_AT_ONCE)
    encoded = np.concatenate([network.encode_sessions({"x": x}, embeddings)[:, -1].numpy() for x in blocks])
    network.train(was_training)
    encoded[~(sessions > 0).any(1)] = 0
    return encoded


def main() -> None:
    """Train and write the vectors."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    task = Task(DEFAULTS)
    settings, given = task.settings, task.given
    seed_everything(task.seed, verbose=False)
    evaluate = Evaluate(task)
    place = pd.to_datetime(np.arange(len(given["track"])), unit="s")  # RecTools sorts a session by time
    columns = {Columns.User: given["session"], Columns.Item: given["track"], Columns.Weight: 1.0}

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=MAX_EPOCHS,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[evaluate],
        )

    model = evaluate.model = SASRecModel(
        n_factors=settings["dim"],
        n_blocks=settings["blocks"],
        n_heads=settings["heads"],
        dropout_rate=settings["dropout"],
        session_max_len=settings["max_length"],
        lr=settings["lr"],
        loss="softmax",
        batch_size=settings["batch"],
        get_trainer_func=trainer,
    )
    model.fit(Dataset.construct(pd.DataFrame({**columns, Columns.Datetime: place})))
    model.torch_model.load_state_dict(task.state)
    task.write({part: encode(model, task, part) for part in task.parts}, *tracks_of(model))


if __name__ == "__main__":
    main()
