"""SASRec of RecTools, trained in a Python of its own; `fitting.py` starts it with a folder.

The library pads every session to one length and computes the scores of the padding too. Here the sessions of a batch
are read in groups of similar length, and padding has no scores: the same loss in less time. It imports nothing of
`src/`, which needs another version of pandas.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule
from rectools.models.rank import Distance
from torch import Tensor
from torch.nn.functional import normalize

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.rivals.sequence_parts import QUERIES_AT_ONCE, Task

DEFAULTS = {
    "dim": 128, "blocks": 2, "heads": 1, "dropout": 0.2, "lr": 0.001, "max_length": 100, "batch": 128, "artist": 0,
    "temperature": 0.0, "sampled": 0,
}  # fmt: skip
"""Settings of the first trial: RecTools' own, with the width that convex has. The artist is a feature of a track; a
temperature of 0 is the inner product, and others divide cosines. Both are options of the library. `sampled` candidates
of the loss are drawn, 0 for all tracks."""
GROUPS = 4
"""Groups of similar length in a batch."""


def in_groups(network: Any, sessions: Tensor, items: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Read sessions in groups that are as wide as their longest; the library's mask keeps padding out of the attention.

    Args:
        network: the library's network.
        sessions: numbers of tracks, the newest last, after padding.
        items: vectors of all tracks.

    Yields:
        Lines of the sessions, and the vector at each of the newest places of these.
    """
    length = (sessions > 0).sum(1)
    for lines in length.argsort().chunk(GROUPS):
        width = max(1, int(length[lines].max()))
        yield lines, network.encode_sessions({"x": sessions[lines, -width:]}, items)


class WithoutPadding(TransformerLightningModule):  # type: ignore[misc]  # RecTools is not installed beside mypy
    """The library's training with its softmax loss, without padding."""

    task: Task

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The mean loss of the tracks that follow one."""
        network = self.torch_model
        items = network.item_model.get_all_embeddings()
        states, following = [], []
        for lines, encoded in in_groups(network, batch["x"], items):
            target = batch["y"][lines, -encoded.shape[1] :]
            states.append(encoded[target > 0])
            following.append(target[target > 0])
        queries = torch.cat(states)
        if network.similarity_module.distance == Distance.COSINE:
            queries, items = normalize(queries), normalize(items)
        return self.task.loss(
            queries / self.logits_t,
            items,
            torch.cat(following),
            lambda: np.append(-1, self.data_preparator.get_known_item_ids()).astype(np.int64),
        )


class Evaluate(Callback):
    """Stops the training when it is finished."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model: Any = None

    def __deepcopy__(self, _: object) -> "Evaluate":
        return self  # RecTools copies the trainer and its callbacks

    def on_train_epoch_end(self, trainer: Trainer, *_: object) -> None:
        """Compare the epoch with the best."""
        own = self.model, self.task
        trainer.should_stop = self.task.is_finished(
            self.model.torch_model, partial(encode, *own), partial(tracks_of, *own)
        )


@torch.inference_mode()
def tracks_of(model: Any, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Rows and vectors of the tracks that the model knows."""
    rows = np.sort(model.data_preparator.get_known_item_ids().astype(np.int64))
    inner = np.asarray(model.data_preparator.item_id_map.convert_to_internal(rows))
    vectors = model.torch_model.item_model.get_all_embeddings()[torch.from_numpy(inner)]
    return rows, (normalize(vectors) if task.settings["temperature"] else vectors).numpy()


@torch.inference_mode()
def encode(model: Any, task: Task, part: str) -> np.ndarray:
    """Vectors of the sessions so far, of which the products with the tracks are logits; 0 where the model knows none of
    their tracks.
    """
    network, preparator, temperature = model.torch_model, model.data_preparator, task.settings["temperature"]
    rows = preparator.get_known_item_ids().astype(np.int64)
    inner = np.zeros(task.num_rows(), np.int64)
    inner[rows] = np.asarray(preparator.item_id_map.convert_to_internal(rows))
    sessions = torch.from_numpy(task.padded(part, inner)[:, ::-1].copy())  # the newest track is the last, after padding
    items = network.item_model.get_all_embeddings()
    encoded = np.zeros((len(sessions), items.shape[1]), np.float32)
    known = torch.nonzero((sessions > 0).any(1)).ravel()
    for block in known[(sessions[known] > 0).sum(1).argsort()].split(QUERIES_AT_ONCE):
        for lines, states in in_groups(network, sessions[block], items):
            newest = states[:, -1]
            encoded[block[lines]] = normalize(newest) / temperature if temperature else newest
    return encoded


def main() -> None:
    """Train and write the vectors."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    task = Task(DEFAULTS)
    settings, given = task.settings, task.given
    cosine = settings["temperature"] > 0
    seed_everything(task.seed, verbose=False)
    evaluate, WithoutPadding.task = Evaluate(task), task
    place = pd.to_datetime(np.arange(len(given["track"])), unit="s")  # RecTools sorts a session by time
    columns = {Columns.User: given["session"], Columns.Item: given["track"], Columns.Weight: 1.0}

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=task.max_epochs,
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
        use_key_padding_mask=True,
        similarity_module_kwargs={"distance": "cosine" if cosine else "dot"},
        lightning_module_type=WithoutPadding,
        lightning_module_kwargs={"logits_t": settings["temperature"] if cosine else 1},
        get_trainer_func=trainer,
    )
    features: dict[str, Any] = {}
    if settings["artist"]:
        played = np.unique(given["track"])
        table = pd.DataFrame({"id": played, "feature": "artist", "value": given["artist"][played]})
        features = {"item_features_df": table, "cat_item_features": ["artist"]}
    model.fit(Dataset.construct(pd.DataFrame({**columns, Columns.Datetime: place}), **features))
    task.finish(model.torch_model, partial(encode, model, task), partial(tracks_of, model, task))


if __name__ == "__main__":
    main()
