"""The `LightningDataModule`: reads the files of a source and builds batches of pairs.

B pairs in a batch, P pairs in a split.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from src.catalog import Catalog, Vocabulary
from src.datamodules.formats import find_reader
from src.datamodules.interleaved import check_policy
from src.datamodules.pairs import Pairs, make_pairs
from src.datamodules.sessions import Sessions, cut_sessions
from src.datamodules.splits import SPLITS, split_pairs, split_sessions
from src.errors import InputError, check_number
from src.models.contracts import PairBatch, SourceEvents


class PairDataset(Dataset[PairBatch]):
    """Pairs as four tensors. An index tensor selects a batch.

    Args:
        pairs: the pairs.
    """

    def __init__(self, pairs: Pairs) -> None:
        self._columns = PairBatch(
            previous=torch.from_numpy(pairs.previous),
            following=torch.from_numpy(pairs.following),
            played_ratio=torch.from_numpy(pairs.played_ratio),
            listener=torch.from_numpy(pairs.listener),
        )

    def __getitem__(self, index: Int64[Tensor, "B"]) -> PairBatch:
        return PairBatch(*(column.index_select(0, index) for column in self._columns))


class BatchSampler(Sampler[Tensor]):
    """Yields one index tensor for each batch, in order or shuffled in every epoch.

    The order depends only on `seed` and the epoch, therefore a run can be resumed in any epoch.

    Args:
        num_pairs: number of pairs.
        batch_size: number of pairs in a batch; the last batch may be smaller.
        seed: seed of the order; None for no shuffling.
    """

    def __init__(self, *, num_pairs: int, batch_size: int, seed: int | None = None) -> None:
        self.num_pairs, self.batch_size, self.seed = num_pairs, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls it before each epoch.

        Args:
            epoch: number of the epoch, from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_pairs // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        if self.seed is None:
            order = torch.arange(self.num_pairs)
        else:
            [state] = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)
            order = torch.randperm(self.num_pairs, generator=torch.Generator().manual_seed(int(state >> np.uint64(1))))
        yield from order.split(self.batch_size)


class PairDataModule(LightningDataModule):
    """Pairs of tracks from the listening logs or playlists of one source.

    Args:
        reader: name of the reader, a key of `formats.READERS`.
        path: folder that holds the files of the source.
        prepare: creates the files where they are missing: takes `path` and returns the folder that holds them. None if
            the files must exist.
        pairing: `consecutive`, `first` or `window`; see `make_pairs`.
        window: largest distance for `pairing=window`, at least 1.
        split: `time`, `session` or `pair`; see `split_sessions` and `split_pairs`.
        split_seed: seed of `split=session|pair`, in [0, 2³²). It is separate from `seed`, therefore runs with different
            seeds have the same test set.
        session_gap_minutes: a longer pause ends a session, in minutes, above 0.
        interleaved: policy for sessions of one user at the same time: `separate`, `keep` or `drop`.
        max_rejected: largest share of lines that may be rejected, in [0, 1].
        rejected_path: file that rejected lines are written to.
        batch_size: number of pairs in a batch, at least 1.
        seed: seed of the order of the training pairs, in [0, 2³²).

    Raises:
        InputError: an argument is out of range.

    `prepare_data` and `setup` set `path`, `catalog`, `sessions`, `vocabulary` and `pairs` (one `Pairs` for each name in
    SPLITS). The first three are there even if `setup` then refuses the data because they are too few for a split.
    """

    catalog: Catalog
    sessions: Sessions
    vocabulary: Vocabulary
    pairs: dict[str, Pairs]

    def __init__(
        self,
        *,
        reader: str,
        path: str,
        prepare: Callable[[Path], Path] | None,
        pairing: str,
        window: int,
        split: str,
        split_seed: int,
        session_gap_minutes: float,
        interleaved: str,
        max_rejected: float,
        rejected_path: str,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        if split not in ("time", "session", "pair"):
            raise InputError(f"split must be time, session or pair, got {split!r}")
        check_policy("datamodule.interleaved", interleaved)
        check_number("batch_size", batch_size, whole=True, least=1)
        check_number("seed", seed, whole=True, least=0, most=2**32 - 1)
        check_number("split_seed", split_seed, whole=True, least=0, most=2**32 - 1)
        self._reader, self.path, self._prepare = reader, Path(path), prepare
        self._max_rejected, self._rejected_path = max_rejected, Path(rejected_path)
        self._pairing, self._window, self._session_gap_minutes = pairing, window, session_gap_minutes
        self._interleaved, self._num_interleaved = interleaved, 0
        self._split, self._split_seed = split, split_seed
        self._batch_size, self._seed = batch_size, seed
        self._summary: pd.DataFrame | None = None
        self._digest: str | None = None

    def prepare_data(self) -> None:
        """Create the files of the source if `prepare` was given. Later calls do nothing.

        Raises:
            InputError: the files cannot be created.
        """
        if self._prepare is not None:
            self.path, self._prepare = self._prepare(self.path), None

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - signature of Lightning; every stage needs all data
        """Read the source and split it. Later calls do nothing.

        Args:
            stage: ignored.

        Raises:
            InputError: the files cannot be read (see `Reader.read`), or a split has no pairs.
        """
        if self._summary is not None:
            return
        source = find_reader(self._reader).read(
            self.path, max_rejected=self._max_rejected, rejected_path=self._rejected_path
        )
        sessions = cut_sessions(
            source.database, session_gap_minutes=self._session_gap_minutes, interleaved=self._interleaved
        )
        self._num_interleaved = sessions.num_interleaved
        source.database.close()
        pairs = make_pairs(sessions, pairing=self._pairing, window=self._window)
        self.catalog, self.sessions = source.catalog, sessions
        self._set_splits(sessions, pairs)
        self._summary = self._summarise(source, sessions)

    @property
    def is_read(self) -> bool:
        """Whether the files were read, even if there are too few pairs."""
        return hasattr(self, "sessions")

    def _set_splits(self, sessions: Sessions, pairs: Pairs) -> None:
        if self._split == "pair":
            self._part_of_session = None
            part_of_pair = split_pairs(len(pairs), seed=self._split_seed)
            in_training = np.isin(np.arange(len(sessions)), pairs.session[part_of_pair == 0])
        else:
            self._part_of_session = split_sessions(sessions, split=self._split, seed=self._split_seed)
            part_of_pair = self._part_of_session[pairs.session]
            in_training = self._part_of_session == 0
        self.pairs = {name: pairs.where(part_of_pair == part) for part, name in enumerate(SPLITS)}
        if empty := [name for name, part in self.pairs.items() if not len(part)]:
            raise InputError(
                f"no pairs left for {' and '.join(empty)}: {len(sessions)} sessions with {len(pairs)} pairs in "
                f"{self.path} are too few for split={self._split}; add more logs"
            )
        train, num_tracks = self.pairs["train"], len(self.catalog)
        of_training = sessions.listens.where(in_training[sessions.listens.session])
        known = ~np.isnan(train.played_ratio)
        self.vocabulary = Vocabulary(
            catalog=self.catalog,
            previous_counts=np.bincount(train.previous, minlength=num_tracks),
            next_counts=np.bincount(train.following, minlength=num_tracks),
            plays=np.bincount(of_training.track, minlength=num_tracks),
            listener_counts=np.bincount(train.listener[known], minlength=pairs.listener.max(initial=-1) + 1),
            listens=train.as_listens() if self._split == "pair" else of_training,
            mean_played_ratio=float(train.played_ratio[known].mean(dtype=np.float64)) if known.any() else None,
        )

    def _summarise(self, source: SourceEvents, sessions: Sessions) -> pd.DataFrame:
        listens = sessions.listens
        rows: dict[str, tuple[int | None, ...]] = {}
        for part, (name, pairs) in enumerate(self.pairs.items()):
            if self._part_of_session is None:
                tracks = np.unique(np.concatenate([pairs.previous, pairs.following]))
                num_events, num_sessions = None, len(np.unique(pairs.session))
            else:
                chosen = self._part_of_session[listens.session] == part
                tracks, num_events = np.unique(listens.track[chosen]), int(chosen.sum())
                num_sessions = int((self._part_of_session == part).sum())
            num_artists = len(np.unique(self.catalog.artist_of[tracks]))
            rows[name] = (num_events, num_sessions, len(pairs), len(tracks), num_artists, None)
        num_pairs = sum(map(len, self.pairs.values()))
        size = (len(self.catalog), self.catalog.num_artists)
        rows["all"] = (source.num_events, len(sessions), num_pairs, *size, source.num_rejected)
        columns = ["events", "sessions", "pairs", "tracks", "artists", "rejected"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).astype("Int64")

    def summary(self) -> pd.DataFrame:
        """Count the content of each split. Call it after `setup`.

        Returns:
            One line for each split and a line `all`; the columns are events, sessions, pairs, distinct tracks, distinct
                artists and rejected lines. The line `all` counts the tracks and artists of the catalogue. With
                `split=pair` the events of a split are not counted.
        """
        assert self._summary is not None, "summary() before setup()"
        return self._summary

    def remarks(self) -> list[str]:
        """What to print below the summary. Call it after `setup`."""
        if not self._num_interleaved:
            return []
        done = {"separate": "separated", "keep": "kept as one", "drop": "left out"}[self._interleaved]
        return [
            f"interleaved  {self._num_interleaved:,} sessions ran at the same time as another one of their user: "
            f"{done} (datamodule.interleaved={self._interleaved})"
        ]

    def digest(self) -> str:
        """Compute a digest of the data. Call it after `setup`.

        Returns:
            Sixteen hexadecimal digits. They change if a pair, its listener, its split or the catalogue changes.
        """
        if self._digest is None:
            self._digest = self._hash()
        return self._digest

    def _hash(self) -> str:
        sha = hashlib.sha256(self.catalog.track_ids.tobytes() + self.catalog.artist_of.tobytes())
        for pairs in self.pairs.values():
            for column in (pairs.listener, pairs.previous, pairs.following, pairs.played_ratio):
                sha.update(len(column).to_bytes(8, "little") + column.tobytes())
        return sha.hexdigest()[:16]

    def train_dataloader(self) -> DataLoader[PairBatch]:
        """Build the loader of the training pairs.

        Returns:
            Batches in an order that depends on the seed and the epoch.
        """
        return self._loader("train", self._seed)

    def val_dataloader(self) -> DataLoader[PairBatch]:
        """Build the loader of the validation pairs.

        Returns:
            Batches in the order of the pairs.
        """
        return self._loader("val", None)

    def test_dataloader(self) -> DataLoader[PairBatch]:
        """Build the loader of the test pairs.

        Returns:
            Batches in the order of the pairs.
        """
        return self._loader("test", None)

    def _loader(self, name: str, seed: int | None) -> DataLoader[PairBatch]:
        pairs = self.pairs[name]
        return DataLoader(
            PairDataset(pairs),
            batch_size=None,  # the sampler yields complete batches
            collate_fn=_identity,
            sampler=BatchSampler(num_pairs=len(pairs), batch_size=self._batch_size, seed=seed),
            pin_memory=torch.cuda.is_available(),
        )


def _identity(batch: Any) -> Any:
    return batch
