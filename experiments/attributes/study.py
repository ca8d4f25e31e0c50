"""Attributes and new tracks: python experiments/attributes/study.py

A tenth of the songs of `yes` is hidden from training. Set-ups of the convex head are chosen on validation queries, then
the chosen one, the head of tracks and artists and the rivals are trained with several seeds, and the test queries are
ranked once. Each piece hides one of three choices of songs.
Every training is a *piece*: one line of `pieces.csv`. A stopped study continues with the pieces that it does not have,
and several processes can share the file.
"""

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from hydra.utils import instantiate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.attributes import tables
from experiments.rivals.environments import python_of
from experiments.studying import SkippedError, Study, append_rows, available, composed, data_of, sized, skip
from segue.attributes import Values
from segue.datamodules.pair_datamodule import PairDataModule
from segue.histories import Histories
from segue.models.contracts import OnBlock, PairBatch
from segue.models.retrieval.ranks import ranks_of_tracks
from segue.runs.atomic import write_whole
from segue.statistics.ranking import NEWNESS, by_newness
from segue.terminal.quiet import silence_libraries

STUDY = Study(__file__, __doc__)
PIECES, RANKS = STUDY.folder / "pieces.csv", STUDY.work
DATA = ("datamodule=yes", "datamodule.cold_share=0.1", "context=last")
HIDDEN = sized((0, 1, 2), (0,))
"""Values of `datamodule.cold_seed`, each of which hides other songs."""
HEAD = ("model=convex", "model.dim=64", "counted=none")
EPOCHS, PAIRS = sized((8, None), (1, 2_000))
PARTS = "model.parts=[track,artist,tags]"
INSTEAD = (PARTS, "model.prior=instead")
WARMER, WIDER = "loss.temperature=0.2", "model.dim=128"
SETUPS: Mapping[str, tuple[str, ...]] = {
    "track, artist": (),
    "track, artist, temperature 0.2": (WARMER,),
    "track, artist, width 128": (WIDER,),
    "track, artist, width 128, temperature 0.2": (WIDER, WARMER),
    "artist, prior": ("model.parts=[track,artist]", "model.prior=added"),
    "tags": (PARTS, "model.prior=null"),
    "tags, dropout 0.2": (PARTS, "model.prior=null", "model.track_dropout=0.2"),
    "tags, prior": (PARTS, "model.prior=added"),
    "tags, prior, dropout 0.1": (PARTS, "model.prior=added", "model.track_dropout=0.1"),
    "tags, prior, temperature 0.2": (PARTS, "model.prior=added", WARMER),
    "tags, prior, width 128, temperature 0.2": (PARTS, "model.prior=added", WIDER, WARMER),
    "tags, prior instead, dropout 0.1": (*INSTEAD, "model.track_dropout=0.1"),
    "tags, prior instead, dropout 0.2": (*INSTEAD, "model.track_dropout=0.2"),
    "tags, prior instead, dropout 0.1, numbers 0.4": (*INSTEAD, "model.track_dropout=0.1", "model.dropout=0.4"),
    "tags, prior instead, dropout 0.1, shrinkage 0.2": (*INSTEAD, "model.track_dropout=0.1", "model.shrinkage=0.2"),
    "tags, prior instead, dropout 0.1, width 128": (*INSTEAD, "model.track_dropout=0.1", WIDER),
    "tags, prior instead, dropout 0.1, temperature 0.2": (*INSTEAD, "model.track_dropout=0.1", WARMER),
    "tags, prior instead, dropout 0.1, width 128, temperature 0.2": (
        *INSTEAD, "model.track_dropout=0.1", WIDER, WARMER,
    ),
    "tags, prior instead, dropout 0.1, temperature 0.3": (
        *INSTEAD, "model.track_dropout=0.1", "loss.temperature=0.3",
    ),
}  # fmt: skip
"""Words of `train.py` by the name of the set-up, beside HEAD."""
LIGHTFM = "LightFM"
RIVALS: Mapping[str, tuple[str, ...]] = {
    "popularity of the artist": ("model=artist_popular",),
    "artist's most played": ("model=sticky",),
    "tag-kNN": ("model=attribute_neighbours",),
    "item2vec, mean of the artist": ("model=item2vec_artist",),
    LIGHTFM: (),
}
"""Words of `train.py` of what knows more of a new track than its plays; LightFM has a Python of its own."""
ROWS = [*SETUPS, *RIVALS]
ALL_PARTS, SHOWN = sized(((), ROWS), (("val", "test"), [tables.BASE, "tags, prior", "popularity of the artist"]))
"""Parts of a smoke, and the set-ups that are trained without `--only`."""
OF_QUERIES = tuple(f"{group}_{metric}" for group in NEWNESS for metric in tables.METRICS)
COLUMNS = ("part", "setup", "hidden", "seed", *OF_QUERIES, "shares", "train_s", "commit")


class Ranks(Protocol):
    """What ranks the next songs of queries."""

    def ranks(
        self, histories: Histories, following: np.ndarray, on_block: OnBlock, *, among: np.ndarray | None = None
    ) -> np.ndarray:
        """The rank of each next song, as `Ranker.ranks` gives it."""
        ...


class ByVectors:
    """Ranks by the inner products of vectors of the last song and of the next one.

    Args:
        queries: a vector for each song as the last one.
        items: a vector for each song as the next one.
    """

    def __init__(self, queries: np.ndarray, items: np.ndarray) -> None:
        self.queries, self.items = torch.from_numpy(queries), torch.from_numpy(items)

    def ranks(
        self, histories: Histories, following: np.ndarray, on_block: OnBlock, *, among: np.ndarray | None = None
    ) -> np.ndarray:
        """The rank of each next song among all, or among some."""
        return ranks_of_tracks(
            queries=self.queries,
            items=self.items,
            previous=histories.previous,
            following=following,
            on_block=on_block,
            among=among,
        )


@cache
def config(*words: str) -> Any:
    """The config of `python train.py <words>`."""
    return composed("train", *DATA, *words, "run_dir=x")


@cache
def the_data(hidden: int) -> PairDataModule:
    """The radio playlists without the songs that a value of HIDDEN hides."""
    datamodule: PairDataModule = data_of(config(*HEAD, f"datamodule.cold_seed={hidden}"))
    return datamodule


def train(data: PairDataModule, setup: str, seed: int) -> tuple[Ranks, str]:
    """Train a set-up, as `train.py` does without its callbacks, or a rival.

    Returns:
        What ranks, and the shares of the parts of a head as text.
    """
    if setup == LIGHTFM:
        return fit_lightfm(data, seed), ""
    if setup in RIVALS:
        ranker = instantiate(config(*RIVALS[setup], f"seed={seed}").ranker, _convert_="all")(vocabulary=data.vocabulary)
        ranker.on_train_start()  # counts
        return ranker.eval(), ""
    ranker = trained_head(data, SETUPS[setup], seed)
    return ranker, " ".join(f"{value:.3f}" for value in ranker.scorer.logged().values())


def trained_head(data: PairDataModule, words: Sequence[str], seed: int) -> Any:
    """A head with words of `train.py`, trained as `train.py` does without its callbacks."""
    torch.manual_seed(seed)
    ranker = instantiate(config(*HEAD, *words).ranker, _convert_="all")(vocabulary=data.vocabulary)
    optimizer = ranker.configure_optimizers()
    pairs, size = data.pairs["train"], config(*HEAD).datamodule.batch_size
    columns = [torch.from_numpy(column) for column in (pairs.previous, pairs.following, pairs.played_ratio)]
    ranker.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(pairs))[:PAIRS].split(size):
            previous, following, share = (column[rows] for column in columns)
            batch = PairBatch.without_history(previous, following, share, torch.zeros_like(rows))
            optimizer.zero_grad()
            ranker.loss(ranker.scorer, batch, ranker.context).backward()
            optimizer.step()
    return ranker.eval()


def fit_lightfm(data: PairDataModule, seed: int) -> ByVectors:
    """Fit LightFM on the same pairs with the same artists and tags."""
    pairs, catalog, tags = data.pairs["train"], data.catalog, data.catalog.attributes["tags"]
    assert isinstance(tags, Values)
    num = len(catalog)
    is_known = np.zeros(num, bool)
    is_known[pairs.previous] = is_known[pairs.following] = True
    values = np.split(num + catalog.num_artists + tags.values, tags.offsets[1:-1])
    rows = [
        [*([row] if is_known[row] else []), num + int(artist), *of_track.tolist()]
        for row, (artist, of_track) in enumerate(zip(catalog.artist_of, values, strict=True))
    ]
    lengths = np.array([len(row) for row in rows])
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.npz", Path(folder) / "found.npz"
        np.savez(
            given,
            previous=pairs.previous,
            following=pairs.following,
            data=np.repeat(1 / lengths, lengths),
            columns=np.array([column for row in rows for column in row], np.int64),
            starts=np.concatenate([[0], lengths.cumsum()]),
            width=num + catalog.num_artists + len(tags.names),
            seed=seed,
        )
        script = str(STUDY.home / "lightfm_model.py")
        subprocess.run([python_of("lightfm"), script, str(given), str(found)], check=True)
        with np.load(found) as file:
            return ByVectors(file["queries"], file["items"])


def metrics_of(data: PairDataModule, ranker: Ranks, split: str) -> dict[str, np.ndarray]:
    """One value for each query of a split, NaN outside the group of a metric."""
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


def run(part: str, setup: str, hidden: int, seed: int) -> None:
    """Train a piece and append its line."""
    data, started = the_data(hidden), time.perf_counter()
    ranker, shares = train(data, setup, seed)
    seconds = time.perf_counter() - started
    values = metrics_of(data, ranker, "test" if part == "test" else "val")
    if part == "test":
        RANKS.mkdir(parents=True, exist_ok=True)
        path = RANKS / f"{tables.name_of(setup)}_{hidden}_{seed}.npz"
        write_whole(path, lambda partial: _save(partial, values))
    means = [f"{np.nanmean(values[name]):.6g}" for name in OF_QUERIES]
    values_of = [part, setup, str(hidden), str(seed), *means, shares, f"{seconds:.0f}", STUDY.commit()]
    append_rows(PIECES, [dict(zip(COLUMNS, values_of, strict=True))])


def _save(path: Path, values: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{name: np.float32(column) for name, column in values.items()})


def main() -> None:
    """Run the missing pieces and write the tables."""
    parser = STUDY.parser()
    parser.add_argument("--part", choices=("val", "test"), default="val", help="val chooses, test is read once")
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="SETUP", default=SHOWN)
    parser.add_argument("--hidden", type=int, nargs="+", default=HIDDEN, help="datamodule.cold_seed; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="default: 1")
    parser.add_argument("--tables", action="store_true", help="only write the tables of the pieces that are there")
    options = STUDY.parse(parser)
    warnings.filterwarnings("ignore")
    silence_libraries()
    if not options.tables and not available("yes"):
        raise SkippedError("attributes: it has no other data")
    if LIGHTFM not in options.only:
        skip(f"{LIGHTFM}: it has a Python of its own, which takes minutes to install")
    pieces = list(product(ALL_PARTS or (options.part,), options.hidden, options.seeds, options.only))
    for part, hidden, seed, setup in [] if options.tables else pieces:
        key = part, setup, str(hidden), str(seed)
        if key not in tables.known(PIECES):
            run(part, setup, hidden, seed)
            print(*key, tables.known(PIECES)[key], flush=True)
    tables.write(STUDY, PIECES, RANKS, list(RIVALS))


if __name__ == "__main__":
    STUDY.run(main)
