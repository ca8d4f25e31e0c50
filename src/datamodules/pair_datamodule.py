"""The `LightningDataModule`: from the files of a source to batches of pairs.

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
from src.datamodules.pairs import Pairs, make_pairs
from src.datamodules.sessions import Sessions, cut_sessions
from src.datamodules.splits import SPLITS, split_pairs, split_sessions
from src.errors import InputError, check_number
from src.models.contracts import PairBatch, SourceEvents


class PairDataset(Dataset[PairBatch]):
    """Pairs as four tensors; one index tensor cuts a whole batch out of each."""

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
    """Index tensors, a batch each: in order, or shuffled anew every epoch.

    The order of an epoch follows from `seed` and the epoch alone, so that a run can be taken up again in any epoch.
    """

    def __init__(self, *, num_pairs: int, batch_size: int, seed: int | None = None) -> None:
        self.num_pairs, self.batch_size, self.seed = num_pairs, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
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
        reader: which source it is, a name in `formats.READERS`.
        path: folder with the source's files.
        prepare: makes them where they are missing: from `path` to the folder that has them; None where they are given.
        pairing: `consecutive`, `first` or `window`; see `make_pairs`.
        window: largest distance for `pairing=window`.
        split: `time`, `session` or `pair`; see `split_sessions` and `split_pairs`.
        split_seed: decides `split=session|pair`; kept apart from `seed` so that runs over seeds share one test set.
        session_gap_minutes: a longer silence ends a session.
        max_rejected: share of lines that may be rejected, 0 to 1.
        rejected_path: where rejected lines are kept aside.
        batch_size: pairs in a batch.
        seed: decides the order of the training pairs.

    After `prepare_data` and `setup`: `path`, `catalog`, `vocabulary`, `pairs` (a `Pairs` for each name in SPLITS).
    """

    catalog: Catalog
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
        max_rejected: float,
        rejected_path: str,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        if split not in ("time", "session", "pair"):
            raise InputError(f"split must be time, session or pair, got {split!r}")
        check_number("batch_size", batch_size, whole=True, least=1)
        check_number("seed", seed, whole=True, least=0, most=2**32 - 1)
        check_number("split_seed", split_seed, whole=True, least=0, most=2**32 - 1)
        self._reader, self.path, self._prepare = reader, Path(path), prepare
        self._max_rejected, self._rejected_path = max_rejected, Path(rejected_path)
        self._pairing, self._window, self._session_gap_minutes = pairing, window, session_gap_minutes
        self._split, self._split_seed = split, split_seed
        self._batch_size, self._seed = batch_size, seed
        self._summary: pd.DataFrame | None = None
        self._digest: str | None = None

    def prepare_data(self) -> None:
        """Make the files, where somebody makes them; once.

        Raises:
            InputError: they cannot be made.
        """
        if self._prepare is not None:
            self.path, self._prepare = self._prepare(self.path), None

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - Lightning's signature; every stage wants all
        """Read the source and split it, once.

        Raises:
            InputError: the files cannot be used (see `Reader.read`), or leave a split without pairs.
        """
        if self._summary is not None:
            return
        source = find_reader(self._reader).read(
            self.path, max_rejected=self._max_rejected, rejected_path=self._rejected_path
        )
        sessions = cut_sessions(source.database, session_gap_minutes=self._session_gap_minutes)
        source.database.close()
        pairs = make_pairs(sessions, pairing=self._pairing, window=self._window)
        self.catalog = source.catalog
        self._split_up(sessions, pairs)
        self._summary = self._summarise(source, sessions)

    def _split_up(self, sessions: Sessions, pairs: Pairs) -> None:
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
                f"no pairs left to {' and '.join(empty)}: {len(sessions)} sessions with {len(pairs)} pairs in "
                f"{self.path} are too few for split={self._split}; give more logs"
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
        """What each split holds, a line each: events, sessions, pairs, distinct tracks and artists, rejected lines.

        The line `all` counts the tracks and artists of the catalogue. Events are not counted where `split=pair` tears
        sessions apart. Call after `setup`.
        """
        assert self._summary is not None, "summary() before setup()"
        return self._summary

    def digest(self) -> str:
        """Sixteen hex digits that change whenever a pair, its listener or split, or the catalogue does.

        Call after `setup`.
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
        """Training pairs, shuffled by seed and epoch."""
        return self._loader("train", self._seed)

    def val_dataloader(self) -> DataLoader[PairBatch]:
        """Validation pairs, in order."""
        return self._loader("val", None)

    def test_dataloader(self) -> DataLoader[PairBatch]:
        """Test pairs, in order."""
        return self._loader("test", None)

    def _loader(self, name: str, seed: int | None) -> DataLoader[PairBatch]:
        pairs = self.pairs[name]
        return DataLoader(
            PairDataset(pairs),
            batch_size=None,  # the sampler hands out whole batches, there is nothing to collate
            collate_fn=_as_it_is,
            sampler=BatchSampler(num_pairs=len(pairs), batch_size=self._batch_size, seed=seed),
            pin_memory=torch.cuda.is_available(),
        )


def _as_it_is(batch: Any) -> Any:
    return batch
