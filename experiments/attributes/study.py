"""Attributes and new tracks: python experiments/attributes/study.py

A tenth of the songs of `yes` is hidden from training. Set-ups of the convex head are chosen on validation queries, then
the chosen one and the head of tracks and artists are trained with several seeds, and the test queries are ranked once.
Every training is a *piece*: one line of `pieces.csv`. A stopped study continues with the pieces that it does not have,
and several processes can share the file.
"""

import argparse
import csv
import io
import os
import sys
import time
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.attributes import tables
from src.datamodules.pair_datamodule import PairDataModule
from src.evaluation.ranking import NEWNESS, by_newness
from src.models.contracts import PairBatch
from src.models.pair_ranker import PairRanker
from src.runs.atomic import write_whole
from src.runs.provenance import ROOT, git_state
from src.terminal.quiet import silence_libraries

HERE = Path(__file__).parent
RANKS = ROOT / "outputs" / "attributes"
DATA = ("datamodule=yes", "datamodule.cold_share=0.1", "context=last", "model=convex", "model.dim=64")
EPOCHS = 8
PARTS = "model.parts=[track,artist,tags]"
SETUPS: Mapping[str, tuple[str, ...]] = {
    "track, artist": (),
    "tags": (PARTS, "model.prior=null"),
    "tags, dropout 0.2": (PARTS, "model.prior=null", "model.track_dropout=0.2"),
    "tags, renormalised item": (
        PARTS, "model.prior=null", "model.track_dropout=0.2", "model.unknown.item=renormalise",
    ),
    "tags, renormalised query": (
        PARTS, "model.prior=null", "model.track_dropout=0.2", "model.unknown.query=renormalise",
    ),
    "tags, learned factors": (
        PARTS, "model.prior=null", "model.track_dropout=0.2", "model.unknown={query: learned, item: learned}",
    ),
    "artist, prior, dropout 0.1": ("model.parts=[track,artist]", "model.prior=added", "model.track_dropout=0.1"),
    "tags, prior": (PARTS, "model.prior=added"),
    "tags, prior, even shares": (
        "model.parts={track: 0.4, artist: 0.4, tags: 0.2}", "model.alpha=null", "model.prior=added",
        "model.track_dropout=0.03",
    ),
    "tags, prior instead, dropout 0.1": (PARTS, "model.prior=instead", "model.track_dropout=0.1"),
    "tags, prior, numbers 0.3": (PARTS, "model.prior=added", "model.track_dropout=0.03", "model.dropout=0.3"),
    "tags, prior, dropout 0.03": (PARTS, "model.prior=added", "model.track_dropout=0.03"),
    "tags, prior, dropout 0.1": (PARTS, "model.prior=added", "model.track_dropout=0.1"),
    "tags, prior, dropout 0.2": (PARTS, "model.prior=added", "model.track_dropout=0.2"),
}  # fmt: skip
"""Words of `train.py` by the name of the set-up."""
OF_QUERIES = tuple(f"{group}_{metric}" for group in NEWNESS for metric in tables.METRICS)
COLUMNS = ("part", "setup", "seed", *OF_QUERIES, "shares", "train_s", "commit")


@cache
def config(*words: str) -> Any:
    """The config of `python train.py <words>`."""
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return compose("train", overrides=[*DATA, *words, "run_dir=x"])


@cache
def the_data() -> PairDataModule:
    """The radio playlists, with the hidden songs."""
    datamodule: PairDataModule = instantiate(config().datamodule, _convert_="all")
    datamodule.setup()
    return datamodule


def train(setup: str, seed: int) -> PairRanker:
    """Train a set-up for `EPOCHS` epochs, as `train.py` does without its callbacks."""
    data = the_data()
    torch.manual_seed(seed)
    ranker: PairRanker = instantiate(config(*SETUPS[setup]).ranker, _convert_="all")(vocabulary=data.vocabulary)
    optimizer = ranker.configure_optimizers()
    pairs, size = data.pairs["train"], config().datamodule.batch_size
    columns = [torch.from_numpy(column) for column in (pairs.previous, pairs.following, pairs.played_ratio)]
    ranker.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(pairs)).split(size):
            previous, following, share = (column[rows] for column in columns)
            batch = PairBatch.without_history(previous, following, share, torch.zeros_like(rows))
            optimizer.zero_grad()
            ranker.loss(ranker.scorer, batch, ranker.context).backward()
            optimizer.step()
    return ranker.eval()


def metrics_of(ranker: PairRanker, split: str) -> dict[str, np.ndarray]:
    """One value for each query of a split, NaN outside the group of a metric."""
    data = the_data()
    pairs = data.pairs[split]
    pairs = pairs.where(pairs.previous != pairs.following)
    previous_is_new, next_is_new = data.new_tracks[pairs.previous], data.new_tracks[pairs.following]
    of_new = pairs.where(next_is_new)
    with torch.inference_mode():
        ranks = ranker.ranks(data.histories(pairs), pairs.following, lambda _: None)
        among = ranker.ranks(data.histories(of_new), of_new.following, lambda _: None, among=data.new_tracks)
    found = by_newness(ranks, among, previous_is_new=previous_is_new, next_is_new=next_is_new)
    columns = {str(name): found[name].to_numpy() for name in found}
    _, columns["session"] = np.unique(pairs.session, return_inverse=True)
    return columns


def run(part: str, setup: str, seed: int) -> None:
    """Train a piece and append its line."""
    started = time.perf_counter()
    ranker = train(setup, seed)
    seconds = time.perf_counter() - started
    values = metrics_of(ranker, "test" if part == "test" else "val")
    if part == "test":
        RANKS.mkdir(parents=True, exist_ok=True)
        path = RANKS / f"{tables.name_of(setup)}_{seed}.npz"
        write_whole(path, lambda partial: _save(partial, values))
    means = [f"{np.nanmean(values[name]):.6g}" for name in OF_QUERIES]
    shares = " ".join(f"{value:.3f}" for value in ranker.scorer.logged().values())
    append([part, setup, str(seed), *means, shares, f"{seconds:.0f}", git_state()["git_commit"][:9]])


def _save(path: Path, values: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{name: np.float32(column) for name, column in values.items()})


def append(values: list[str]) -> None:
    """Append a line in one write, therefore several processes can share the file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not tables.PIECES.exists():
        writer.writerow(COLUMNS)
    writer.writerow(values)
    descriptor = os.open(tables.PIECES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, text.getvalue().encode())
    finally:
        os.close(descriptor)


def main() -> None:
    """Run the missing pieces and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("val", "test"), default="val", help="val chooses, test is read once")
    parser.add_argument("--only", nargs="+", choices=[*SETUPS], metavar="SETUP", default=[*SETUPS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="default: 1")
    parser.add_argument("--tables", action="store_true", help="only write the tables of the pieces that are there")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    silence_libraries()
    for seed in [] if options.tables else options.seeds:
        for setup in options.only:
            if (options.part, setup, str(seed)) not in tables.known():
                run(options.part, setup, seed)
                print(options.part, setup, seed, tables.known()[options.part, setup, str(seed)], flush=True)
    tables.write(HERE, RANKS)


if __name__ == "__main__":
    main()
