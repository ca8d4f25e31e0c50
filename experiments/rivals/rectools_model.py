"""SASRec of RecTools, trained in a Python of its own; `fitting.py` starts it with a folder.

Reads `sessions.npz` and `settings.json`, trains until validation ndcg@10 does not improve, and writes `vectors.npz`:
vectors of the tracks and of the sessions so far, of the best epoch. It imports nothing of `src/`, which needs another
version of pandas.
"""

import copy
import json
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

DEFAULTS = {"dim": 128, "blocks": 2, "heads": 1, "dropout": 0.2, "lr": 0.001, "max_length": 50}
"""The first trial: the defaults of RecTools 0.19, with half of its width."""
MAX_EPOCHS, PATIENCE = 30, 3
QUERIES_AT_ONCE = 512


class BestEpoch(Callback):
    """Evaluates after each epoch, keeps the weights of the best, and stops when there is none for PATIENCE epochs."""

    def __init__(self, given: dict[str, np.ndarray], max_length: int) -> None:
        self.given, self.max_length = given, max_length
        self.best, self.epoch_of_best, self.evaluating_s = -1.0, 0, 0.0
        self.model: Any = None
        self.state: dict[str, torch.Tensor] = {}

    def __deepcopy__(self, _: object) -> "BestEpoch":
        return self  # RecTools copies the trainer and its callbacks

    def on_train_epoch_end(self, trainer: Trainer, *_: object) -> None:
        """Compare the epoch with the best."""
        started, network = time.perf_counter(), self.model.torch_model
        value = self.ndcg(encode(self.model, self.given["history_val"], self.max_length))
        if value > self.best:
            self.best, self.epoch_of_best = value, trainer.current_epoch
            self.state = copy.deepcopy(network.state_dict())
        trainer.should_stop = trainer.current_epoch - self.epoch_of_best >= PATIENCE
        self.evaluating_s += time.perf_counter() - started

    @torch.inference_mode()
    def ndcg(self, queries: np.ndarray) -> float:
        """ndcg@10 of the validation queries; tracks that were heard are left out."""
        rows, items = tracks_of(self.model)
        place = np.full(max(self.given["track"].max(), self.given["following_val"].max()) + 1, -1)
        place = np.pad(place, (0, max(0, int(self.given["history_val"].max()) + 1 - len(place))), constant_values=-1)
        place[rows] = np.arange(len(rows))
        total = 0.0
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            part = slice(start, start + QUERIES_AT_ONCE)
            scores = torch.from_numpy(queries[part]) @ torch.from_numpy(items).T
            line, nth = (self.given["history_val"][part] >= 0).nonzero()
            heard = place[self.given["history_val"][part][line, nth]]
            scores[line[heard >= 0], heard[heard >= 0]] = -torch.inf
            target = place[self.given["following_val"][part]]
            of_target = scores[np.arange(len(scores)), target.clip(0)]
            rank = 1 + (scores > of_target[:, None]).sum(1).numpy()
            found = (target >= 0) & (rank <= 10) & np.isfinite(of_target.numpy())
            total += float((found / np.log2(1 + rank)).sum())
        return total / len(queries)


def tracks_of(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows and vectors of the tracks that the model knows."""
    rows = np.sort(model.data_preparator.get_known_item_ids().astype(np.int64))
    inner = np.asarray(model.data_preparator.item_id_map.convert_to_internal(rows))
    with torch.inference_mode():
        return rows, model.torch_model.item_model.get_all_embeddings()[torch.from_numpy(inner)].numpy()


@torch.inference_mode()
def encode(model: Any, history: np.ndarray, max_length: int) -> np.ndarray:
    """Vectors of the sessions so far; 0 where the model knows none of their tracks.

    Args:
        model: fitted, or being fitted.
        history: rows of tracks, newest first, -1 where there is none.
        max_length: number of tracks that the network reads.
    """
    network, id_map = model.torch_model, model.data_preparator.item_id_map
    rows = model.data_preparator.get_known_item_ids().astype(np.int64)
    inner = np.zeros(max(int(history.max()), int(rows.max())) + 2, np.int64)
    inner[rows] = np.asarray(id_map.convert_to_internal(rows))
    internal = np.where(history >= 0, inner[history], 0)
    order = np.argsort(internal == 0, axis=1, kind="stable")  # unknown tracks are skipped, as in RecTools
    internal = np.take_along_axis(internal, order, axis=1)[:, :max_length]
    internal = np.pad(internal, ((0, 0), (0, max_length - internal.shape[1])))[:, ::-1].copy()
    was_training = network.training
    network.eval()
    embeddings = network.item_model.get_all_embeddings()
    parts = [
        network.encode_sessions({"x": part}, embeddings)[:, -1].numpy()
        for part in torch.from_numpy(internal).split(QUERIES_AT_ONCE)
    ]
    network.train(was_training)
    encoded = np.concatenate(parts)
    encoded[~(internal > 0).any(1)] = 0
    return encoded


def main() -> None:
    """Train and write the vectors."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with np.load(folder / "sessions.npz") as file:
        given = dict(file)
    settings = {**DEFAULTS, **json.loads((folder / "settings.json").read_text(encoding="utf-8"))}
    settings = {name: type(DEFAULTS.get(name, 0))(value) for name, value in settings.items()}
    seed_everything(settings["seed"], verbose=False)
    best = BestEpoch(given, settings["max_length"])
    place = pd.to_datetime(np.arange(len(given["track"])), unit="s")  # RecTools sorts a session by time
    columns = {Columns.User: given["session"], Columns.Item: given["track"], Columns.Weight: 1.0}
    frame = pd.DataFrame({**columns, Columns.Datetime: place})

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=MAX_EPOCHS,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[best],
        )

    best.model = SASRecModel(
        n_factors=settings["dim"],
        n_blocks=settings["blocks"],
        n_heads=settings["heads"],
        dropout_rate=settings["dropout"],
        session_max_len=settings["max_length"],
        lr=settings["lr"],
        loss="softmax",
        batch_size=128,
        get_trainer_func=trainer,
    )
    started = time.perf_counter()
    best.model.fit(Dataset.construct(frame))
    seconds = time.perf_counter() - started - best.evaluating_s
    best.model.torch_model.load_state_dict(best.state)
    rows, items = tracks_of(best.model)
    parts = [name.removeprefix("history_") for name in given if name.startswith("history_")]
    queries = {
        f"queries_{part}": encode(best.model, given[f"history_{part}"], settings["max_length"]) for part in parts
    }
    np.savez(folder / "vectors.npz", item_rows=rows, items=items, **queries)
    (folder / "seconds.json").write_text(json.dumps({"fit": seconds, "epoch": best.epoch_of_best}), encoding="utf-8")


if __name__ == "__main__":
    main()
