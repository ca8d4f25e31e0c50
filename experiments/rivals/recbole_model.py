"""GRU4Rec of RecBole, trained in a Python of its own; `fitting.py` starts it with a folder.

RecBole trains on every beginning of a session by itself, padded to one length. The network reads a session in one
direction, therefore the same loss comes from whole sessions, several times as fast: here is the network of the library
with such a training. Two settings are not the library's: the vector of its artist may be added to that of a track, and
scores may be cosines, divided by a temperature. It imports nothing of `src/`, which needs another version of pandas.
"""

import sys
import warnings
from functools import partial
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
from experiments.rivals.sequence_parts import QUERIES_AT_ONCE, Task, cut

DEFAULTS = {
    "dim": 128, "hidden": 128, "layers": 1, "dropout": 0.3, "lr": 0.003, "batch": 512, "max_length": 50, "artist": 0,
    "temperature": 0.0, "sampled": 0,
}  # fmt: skip
"""Settings of the first trial: those of RecBole, with the width that convex has, and a rate at which it is trained in
few epochs. A temperature of 0 is the inner product of the library; longer sessions are cut into pieces of `max_length`
tracks after the first. `sampled` candidates of the loss are drawn, 0 for all tracks."""


class Network(torch.nn.Module):
    """The library's network, and what is around it.

    M tracks, V width.

    Args:
        model: the network; it counts tracks from 1.
        artists: number of the artist of each track, shape (M,); None where the artist is not used.
        temperature: by which cosines are divided; 0 for inner products.
    """

    def __init__(self, model: Any, artists: Tensor | None, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.artists = artists
        if artists is not None:
            self.artist_embedding = torch.nn.Embedding(1 + int(artists.max()), model.item_embedding.embedding_dim)
            torch.nn.init.xavier_normal_(self.artist_embedding.weight)  # as the library starts its own

    def tracks(self) -> Tensor:
        """The vector of each track, shape (1 + M, V); the first is that of padding."""
        own: Tensor = self.model.item_embedding.weight
        if self.artists is None:
            return own
        return own + torch.nn.functional.pad(self.artist_embedding(self.artists), (0, 0, 1, 0))

    def compared_after(self, before: PackedSequence) -> tuple[Tensor, Tensor]:
        """Queries after each track, in the order of the packed tracks, and what they are multiplied with; the library
        has the last query alone.
        """
        tracks = self.tracks()
        vectors = self.model.emb_dropout(torch.nn.functional.embedding(before.data, tracks))
        states, _ = self.model.gru_layers(before._replace(data=vectors))
        return self.scaled(self.model.dense(states.data)), self.compared(tracks)

    def scaled(self, queries: Tensor) -> Tensor:
        """What is multiplied with a track."""
        return torch.nn.functional.normalize(queries) / self.temperature if self.temperature else queries

    def compared(self, tracks: Tensor) -> Tensor:
        """What a query is multiplied with."""
        return torch.nn.functional.normalize(tracks) if self.temperature else tracks

    @torch.inference_mode()
    def items(self) -> np.ndarray:
        """What queries are multiplied with, shape (M, V)."""
        return np.asarray(self.compared(self.tracks())[1:])

    @torch.inference_mode()
    def after_last(self, sessions: list[Tensor]) -> np.ndarray:
        """The vector after the last track of each session."""
        packed = pack_sequence(sessions, enforce_sorted=False)
        vectors = torch.nn.functional.embedding(packed.data, self.tracks())
        _, last = self.model.gru_layers(packed._replace(data=vectors))
        return np.asarray(self.scaled(self.model.dense(last[-1])))

    def encode(self, task: Task, inner: np.ndarray, part: str) -> np.ndarray:
        """Vectors of the sessions so far; 0 where the model knows none of their tracks."""
        newest_first = torch.from_numpy(task.padded(part, inner))
        length = (newest_first > 0).sum(1)
        numbers = length.clamp(min=1).tolist()
        sessions = [tracks[:number].flip(0) for tracks, number in zip(newest_first, numbers, strict=True)]
        starts = range(0, len(sessions), QUERIES_AT_ONCE)
        encoded = np.concatenate([self.after_last(sessions[start : start + QUERIES_AT_ONCE]) for start in starts])
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
    whole = torch.from_numpy(1 + known).tensor_split(ends.tolist())
    sessions = [piece for session in whole for piece in cut(session, settings["max_length"])]
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
    artists = torch.from_numpy(given["artist"][rows]) if settings["artist"] else None
    network = Network(model, artists, settings["temperature"])
    encode, tracks = partial(network.encode, task, inner), lambda: (rows, network.items())
    optimizer = torch.optim.Adam(network.parameters(), lr=settings["lr"])
    for _ in range(task.max_epochs):
        for nth in np.array_split(rng.permutation(len(sessions)), num_batches):
            before = pack_sequence([sessions[own][:-1] for own in nth], enforce_sorted=False)
            following = pack_sequence([sessions[own][1:] for own in nth], enforce_sorted=False)
            loss = task.loss(*network.compared_after(before), following.data, lambda: np.append(-1, rows))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if task.is_finished(network, encode, tracks):
            break
    task.finish(network, encode, tracks)


if __name__ == "__main__":
    main()
