"""Training on 50,000 tracks, 100 wide, in batches of 4096.

Each contender does whole steps of the published recipe: it cuts a shuffled batch, computes gradients of the loss, and
updates the tables.
"""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from experiments.studying import composed, sized
from experiments.throughput.race import Contender, Stage, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from segue.models.pair_ranker import PairRanker

NUM_TRACKS, NUM_ARTISTS = sized((50_000, 11_464), (1_000, 200))
DIM, BATCH_SIZE, ALPHA = 100, 4096, 0.9
LR, WEIGHT_DECAY = 1e-2, 1e-5
COLUMNS = ("previous", "following", "played_ratio", "artist_of")


def make(folder: Path, small: bool) -> None:
    """Pairs of the published world's catalogue."""
    num_pairs = BATCH_SIZE * sized(100 if small else 500, 2)
    save_columns(folder, draw_pairs(num_tracks=NUM_TRACKS, num_artists=NUM_ARTISTS, num_pairs=num_pairs))


def save_columns(folder: Path, arrays: list[np.ndarray]) -> None:
    for name, array in zip(COLUMNS, arrays, strict=True):
        np.save(folder / f"{name}.npy", array)


def draw_pairs(*, num_tracks: int, num_artists: int, num_pairs: int, skew: float = 1.3) -> list[np.ndarray]:
    """COLUMNS of random pairs; popularity is by default as skewed as in the published world."""
    rng = np.random.default_rng(0)
    popularity = rng.lognormal(sigma=skew, size=num_tracks)
    tracks = rng.choice(num_tracks, size=(2, num_pairs), p=popularity / popularity.sum())
    return [*tracks, rng.random(num_pairs, np.float32), rng.integers(0, num_artists, num_tracks)]


def load_columns(folder: Path) -> list[np.ndarray]:
    return [np.load(folder / f"{name}.npy") for name in COLUMNS]


def ours(folder: Path, small: bool, model: str) -> Work:  # noqa: ARG001 - the data have the size
    """Segue, as in train.py."""
    return fit(load_columns(folder), published_words(model=model, dim=DIM))


def published_words(*, model: str, dim: int) -> list[str]:
    """Settings of train.py for the published recipe, with the optimizer of today."""
    words = ["datamodule=botify", f"datamodule.batch_size={BATCH_SIZE}"]
    words += [f"model={model}", "loss=mse", f"model.dim={dim}", "model.init_std=1.0"]
    words += ["model.item_bias=false", "model.dropout=0"]
    if model == "convex":
        words += [f"model.alpha={ALPHA}", "model.track_dropout=0"]
    return [*words, f"optimizer.lr={LR}", f"optimizer.weight_decay={WEIGHT_DECAY}"]


def fit(columns: list[np.ndarray], words: list[str], replace: "Callable[[PairRanker], None] | None" = None) -> Work:
    """`trainer.fit` as in train.py, one epoch at a time, with the loader of the datamodule.

    `words` are settings of train.py; `replace` may replace parts of the model before it trains.
    """
    import logging
    import warnings

    from hydra.utils import instantiate

    from segue.callbacks.progress_bar import TrainingProgress
    from segue.callbacks.run_context import RunContext
    from segue.catalog import Catalog, Vocabulary
    from segue.datamodules.pairs.pairs import Pairs
    from segue.histories import Histories
    from segue.reports.console import console

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    console.quiet = True
    previous, following, played_ratio, artist_of = columns
    num_tracks = len(artist_of)
    pairs = Pairs(
        session=np.arange(len(previous)),
        listener=np.zeros_like(previous),
        previous=previous,
        following=following,
        played_ratio=played_ratio,
        last=2 * np.arange(len(previous)),
        length=np.ones_like(previous),
    )
    no_names = [np.full(size, "", object) for size in (num_tracks, artist_of.max() + 1)]
    previous_counts, next_counts = (np.bincount(rows, minlength=num_tracks) for rows in (previous, following))
    vocabulary = Vocabulary(
        catalog=Catalog(track_ids=np.arange(num_tracks), titles=no_names[0], artist_of=artist_of, artists=no_names[1]),
        previous_counts=previous_counts,
        next_counts=next_counts,
        plays=previous_counts + next_counts,
        listener_counts=np.zeros(1, np.int64),
        listens=pairs.as_listens(),
        mean_played_ratio=float(played_ratio.mean()),
    )

    more = ("datamodule.path=.", "run_dir=.", "trainer.accelerator=cpu", "trainer.max_epochs=1")
    config = composed("train", *words, *more)
    ranker = instantiate(config.ranker, _convert_="all")(vocabulary=vocabulary)
    if replace is not None:
        replace(ranker)

    def histories(some: Pairs) -> Histories:
        places = {name: getattr(some, name) for name in ("last", "length", "previous")}
        return Histories(tracks=vocabulary.listens.track, played_ratio=vocabulary.listens.played_ratio, **places)

    datamodule = instantiate(config.datamodule, _convert_="all")
    datamodule.pairs = {"train": pairs}  # set here, therefore no source is read
    datamodule.data = SimpleNamespace(shards=(), histories=histories)

    def work() -> float:
        progress = TrainingProgress(RunContext(datamodule=datamodule), monitor="val/loss", mode="min", max_epochs=1)
        settings = {"callbacks": [progress], "logger": False, "enable_checkpointing": False, "limit_val_batches": 0}
        trainer = instantiate(config.trainer, **settings, _convert_="all")
        trainer.fit(ranker, train_dataloaders=datamodule.train_dataloader())
        return len(previous)

    return work


def _tables(model: str) -> list["Tensor"]:
    import torch

    torch.manual_seed(0)
    num_rows = NUM_TRACKS if model == "contextual" else NUM_ARTISTS
    return [torch.randn(rows, DIM).requires_grad_() for rows in (NUM_TRACKS, num_rows)]


def published(folder: Path, small: bool, model: str) -> Work:
    """The loop of the 2023 notebook: a loader that collates pair by pair, dense gradients, Adam."""
    import torch
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, TensorDataset

    previous, following, played_ratio, artist_of = map(torch.from_numpy, load_columns(folder))
    tables = _tables(model)
    optimizer = torch.optim.Adam(tables, lr=LR, weight_decay=WEIGHT_DECAY)
    loader = DataLoader(TensorDataset(previous, following, played_ratio), batch_size=BATCH_SIZE, shuffle=True)
    num_batches = sized(4 if small else 20, 1)

    def contextual(first: "Tensor", second: "Tensor") -> "Tensor":
        return (F.embedding(first, tables[0]) * F.embedding(second, tables[1])).sum(-1)

    def convex(first: "Tensor", second: "Tensor") -> "Tensor":
        tracks = F.cosine_similarity(F.embedding(first, tables[0]), F.embedding(second, tables[0]))
        artists = [F.embedding(artist_of[rows], tables[1]) for rows in (first, second)]
        return ALPHA * tracks + (1 - ALPHA) * F.cosine_similarity(artists[0], artists[1])

    score = contextual if model == "contextual" else convex

    def work() -> float:
        for _, (first, second, share) in zip(range(num_batches), loader, strict=False):
            optimizer.zero_grad()
            ((score(first, second) - share) ** 2).mean().backward()
            optimizer.step()
        return num_batches * BATCH_SIZE

    return work


def bare(folder: Path, small: bool, model: str) -> Work:  # noqa: ARG001 - the data have the size
    """Only a loop over batches that were cut before, with the fastest optimizer found."""
    import torch
    from torch.nn import functional as F

    from segue.models.row_adam import RowAdam

    previous, following, played_ratio, artist_of = map(torch.from_numpy, load_columns(folder))
    tables, dot = _tables(model), torch.linalg.vecdot
    optimizer = RowAdam(tables, lr=LR, beta2=0.999, eps=1e-8, weight_decay=WEIGHT_DECAY)
    order = torch.randperm(len(previous), generator=torch.Generator().manual_seed(0))
    columns = [column[order].split(BATCH_SIZE) for column in (previous, following, played_ratio)]

    def cosine(rows: "Tensor", table: "Tensor") -> "Tensor":
        a, b = F.embedding(rows, table, sparse=True).unbind()
        cosines: Tensor = dot(a, b) * (dot(a, a) * dot(b, b)).rsqrt()
        return cosines

    def contextual(first: "Tensor", second: "Tensor") -> "Tensor":
        products: Tensor = dot(F.embedding(first, tables[0], sparse=True), F.embedding(second, tables[1], sparse=True))
        return products

    def convex(first: "Tensor", second: "Tensor") -> "Tensor":
        rows = torch.stack([first, second])
        return ALPHA * cosine(rows, tables[0]) + (1 - ALPHA) * cosine(artist_of[rows], tables[1])

    score = contextual if model == "contextual" else convex

    def work() -> float:
        for first, second, share in zip(*columns, strict=True):
            optimizer.zero_grad()
            ((score(first, second) - share) ** 2).mean().backward()
            optimizer.step()
        return len(previous)

    return work


STAGES = [
    Stage(
        name=f"training, {model}",
        unit="pairs",
        make=make,
        ours=Contender(name="train.py", prepare=partial(ours, model=model)),
        rivals=[Contender(name="the published loop", prepare=partial(published, model=model), at_least=20)],
        limits=[Contender(name="a bare loop", prepare=partial(bare, model=model), at_least=0.85)],
    )
    for model in ("contextual", "convex")
]
