"""GRU4Rec of RecBole, trained in a Python of its own; `fitting.py` starts it with a folder.

It imports nothing of `src/`, which needs another version of pandas.
"""

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.rivals.sequence_parts import MAX_EPOCHS, QUERIES_AT_ONCE, Task

DEFAULTS = {"dim": 128, "hidden": 128, "layers": 1, "dropout": 0.3, "lr": 0.003, "max_length": 20}
"""Settings of the first trial: those of RecBole, with the width and the number of tracks that convex has, and a rate at
which it is trained in few epochs."""


def write_sessions(task: Task) -> None:
    """Write every beginning of a training session and the track that followed, in RecBole's format."""
    session, track = task.given["session"], task.given["track"]
    folder = task.folder / "sessions"
    folder.mkdir()
    head = "session_id:token\titem_id_list:token_seq\titem_id:token\n"
    starts = np.flatnonzero(np.append(True, session[1:] != session[:-1]))
    lines = []
    for start, end in zip(starts, [*starts[1:], len(track)], strict=True):
        words = track[start:end].astype(str).tolist()
        for place in range(1, len(words)):
            before = " ".join(words[max(0, place - task.settings["max_length"]) : place])
            lines.append(f"{session[start]}\t{before}\t{words[place]}\n")
    for part, text in (("train", lines), ("valid", lines[:1]), ("test", lines[:1])):
        (folder / f"sessions.{part}.inter").write_text(head + "".join(text), encoding="utf-8")


def tracks_of(model: Any, dataset: Any, task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the tracks that the model knows, their vectors, and the number of each row in the library."""
    tokens = dataset.field2id_token["item_id"]  # the first is padding
    rows = tokens[1:].astype(np.int64)
    inner = np.zeros(max(task.num_rows(), int(rows.max()) + 1), np.int64)
    inner[rows] = np.arange(1, len(tokens))
    return rows, model.item_embedding.weight.detach().numpy()[1:], inner


@torch.inference_mode()
def encode(model: Any, task: Task, part: str, inner: np.ndarray) -> np.ndarray:
    """Vectors of the sessions so far; 0 where the model knows none of their tracks."""
    newest_first = task.padded(part, inner)
    length = (newest_first > 0).sum(1)
    place = length[:, None] - 1 - np.arange(newest_first.shape[1])
    sessions = np.where(place >= 0, np.take_along_axis(newest_first, place.clip(0), axis=1), 0)
    was_training = model.training
    model.eval()
    blocks = zip(
        torch.from_numpy(sessions).split(QUERIES_AT_ONCE),
        torch.from_numpy(length.clip(1)).split(QUERIES_AT_ONCE),
        strict=True,
    )
    encoded = np.concatenate([model.forward(tracks, num).numpy() for tracks, num in blocks])
    model.train(was_training)
    encoded[length == 0] = 0
    return encoded


def main() -> None:
    """Train and write the vectors."""
    warnings.filterwarnings("ignore")
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import GRU4Rec
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    task = Task(DEFAULTS)
    write_sessions(task)
    config = Config(
        model="GRU4Rec",
        dataset="sessions",
        config_dict={
            "data_path": str(task.folder),
            "checkpoint_dir": str(task.folder / "saved"),
            "USER_ID_FIELD": "session_id",
            "load_col": {"inter": ["session_id", "item_id_list", "item_id"]},
            "alias_of_item_id": ["item_id_list"],
            "benchmark_filename": ["train", "valid", "test"],
            "MAX_ITEM_LIST_LENGTH": task.settings["max_length"],
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "embedding_size": task.settings["dim"],
            "hidden_size": task.settings["hidden"],
            "num_layers": task.settings["layers"],
            "dropout_prob": task.settings["dropout"],
            "learning_rate": task.settings["lr"],
            "train_batch_size": 512,
            "seed": task.seed,
            "reproducibility": True,
            "use_gpu": False,
            "show_progress": False,
            "state": "ERROR",
        },
    )
    init_seed(task.seed, True)
    dataset = create_dataset(config)
    train, _, _ = data_preparation(config, dataset)
    model = GRU4Rec(config, train.dataset)
    trainer = Trainer(config, model)
    for epoch in range(MAX_EPOCHS):
        trainer.start_epoch, trainer.epochs = epoch, epoch + 1  # one epoch; the optimizer goes on
        trainer.fit(train, saved=False, show_progress=False, verbose=False)
        started = time.process_time()
        rows, items, inner = tracks_of(model, dataset, task)
        if task.is_finished(model, encode(model, task, "val", inner), rows, items, started):
            break
    model.load_state_dict(task.state)
    rows, items, inner = tracks_of(model, dataset, task)
    task.write({part: encode(model, task, part, inner) for part in task.parts}, rows, items)


if __name__ == "__main__":
    main()
