"""GRU4Rec of RecBole, trained in a Python of its own; `fitting.py` starts it with a folder.

RecBole trains on every beginning of a session by itself, padded to one length. The network reads a session in one
direction, therefore the same loss comes from whole sessions, several times as fast: here is the network of the library
with such a training. It imports nothing of `src/`, which needs another version of pandas.
"""

import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.model.sequential_recommender import GRU4Rec
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.rivals.sequence_parts import MAX_EPOCHS, QUERIES_AT_ONCE, Task

DEFAULTS = {"dim": 128, "hidden": 128, "layers": 1, "dropout": 0.3, "lr": 0.003, "batch": 512, "max_length": 20}
"""Settings of the first trial: those of RecBole, with the width and the number of tracks that convex has, and a rate at
which it is trained in few epochs."""


def after_each(model: Any, sessions: PackedSequence) -> Tensor:
    """The vector after each track, in the order of the packed tracks; the library gives that after the last alone."""
    vectors = model.emb_dropout(model.item_embedding(sessions.data))
    states, _ = model.gru_layers(sessions._replace(data=vectors))
    found: Tensor = model.dense(states.data)
    return found


@torch.inference_mode()
def after_last(model: Any, sessions: list[Tensor]) -> np.ndarray:
    """The vector after the last track of each session."""
    packed = pack_sequence(sessions, enforce_sorted=False)
    _, last = model.gru_layers(packed._replace(data=model.item_embedding(packed.data)))
    return np.asarray(model.dense(last[-1]))


def encode(model: Any, task: Task, part: str, inner: np.ndarray) -> np.ndarray:
    """Vectors of the sessions so far; 0 where the model knows none of their tracks."""
    newest_first = torch.from_numpy(task.padded(part, inner))
    length = (newest_first > 0).sum(1)
    sessions = [tracks[:num].flip(0) for tracks, num in zip(newest_first, length.clamp(min=1).tolist(), strict=True)]
    model.eval()
    starts = range(0, len(sessions), QUERIES_AT_ONCE)
    encoded = np.concatenate([after_last(model, sessions[start : start + QUERIES_AT_ONCE]) for start in starts])
    encoded[length == 0] = 0
    return encoded


def main() -> None:
    """Train and write the vectors."""
    warnings.filterwarnings("ignore")
    task = Task(DEFAULTS)
    settings, given = task.settings, task.given
    torch.manual_seed(task.seed)
    rng = np.random.default_rng(task.seed)
    rows, known = np.unique(given["track"], return_inverse=True)
    inner = np.zeros(max(task.num_rows(), int(rows.max()) + 1), np.int64)
    inner[rows] = np.arange(1, 1 + len(rows))  # 0 is padding
    ends = np.flatnonzero(given["session"][1:] != given["session"][:-1]) + 1
    sessions = [session for session in torch.from_numpy(1 + known).tensor_split(ends.tolist()) if len(session) > 1]
    num_batches = max(1, round(sum(len(session) - 1 for session in sessions) / settings["batch"]))
    config_dict: dict[str, Any] = {
        "train_neg_sample_args": None,
        "loss_type": "CE",
        "embedding_size": settings["dim"],
        "hidden_size": settings["hidden"],
        "num_layers": settings["layers"],
        "dropout_prob": settings["dropout"],
        "use_gpu": False,
    }
    config = Config(model="GRU4Rec", dataset="sessions", config_dict=config_dict)
    model = GRU4Rec(config, SimpleNamespace(num=lambda _: 1 + len(rows)))
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["lr"])
    for _ in range(MAX_EPOCHS):
        model.train()
        for nth in np.array_split(rng.permutation(len(sessions)), num_batches):
            before = pack_sequence([sessions[own][:-1] for own in nth], enforce_sorted=False)
            following = pack_sequence([sessions[own][1:] for own in nth], enforce_sorted=False)
            loss = model.loss_fct(after_each(model, before) @ model.item_embedding.weight.T, following.data)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        started = time.process_time()
        items = model.item_embedding.weight.detach().numpy()[1:]
        if task.is_finished(model, encode(model, task, "val", inner), rows, items, started):
            break
    model.load_state_dict(task.state)
    items = model.item_embedding.weight.detach().numpy()[1:]
    task.write({part: encode(model, task, part, inner) for part in task.parts}, rows, items)


if __name__ == "__main__":
    main()
