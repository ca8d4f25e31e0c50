"""The `LightningDataModule`: reads the files of a source and builds batches of pairs.

B pairs in a batch, P pairs in a split, S sessions, H tracks of a history.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int8, Int64
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segue.catalog import Catalog, Listens, Vocabulary
from segue.datamodules.batch_share import BatchShare
from segue.datamodules.order import epoch_order, in_batches
from segue.datamodules.pairs.left_out import Policies
from segue.datamodules.pairs.pair_rules import PairRules
from segue.datamodules.pairs.pairs import Pairs, known_shares, slices
from segue.datamodules.pairs.pairs_in_splits import pairs_in_splits, training_plays
from segue.datamodules.pairs.sessions import Sessions, cut_sessions
from segue.datamodules.pairs.training_tracks import track_facts
from segue.datamodules.reading.rejected_rows import Rejections
from segue.datamodules.reading.table import Reading, SourceEvents, read_table
from segue.datamodules.reading.table_settings import table_settings
from segue.datamodules.remarks import remarks_on
from segue.datamodules.splits import SPLITS, split
from segue.errors import InputError, check_flag, check_number
from segue.histories import Histories
from segue.models.contracts import PairBatch


class PairDataset(Dataset[PairBatch]):
    """Pairs as tensors. An index tensor selects a batch, whose histories are looked up in the events of the sessions.

    Args:
        pairs: the pairs.
        histories: what was heard before the next track of each pair.
        max_length: largest number of tracks of a history that a batch has (H), at least 0.
    """

    def __init__(self, pairs: Pairs, histories: Histories, max_length: int) -> None:
        columns = (pairs.previous, pairs.following, pairs.played_ratio, pairs.listener)
        self._columns = tuple(torch.from_numpy(column) for column in columns)
        self._last, self._length = torch.from_numpy(histories.last), torch.from_numpy(histories.length)
        self._tracks, self._shares = torch.from_numpy(histories.tracks), torch.from_numpy(histories.played_ratio)
        self._age = torch.arange(max_length)

    def __getitem__(self, index: Int64[Tensor, "B"]) -> PairBatch:
        previous, following, played_ratio, listener = (column.index_select(0, index) for column in self._columns)
        batch = PairBatch.without_history(previous, following, played_ratio, listener)
        if not len(self._age):
            return batch
        lengths = self._length.index_select(0, index)
        age = self._age[: int(lengths.max())] if len(index) else self._age  # no wider than the longest history
        is_missing = lengths[:, None] <= age
        event = (self._last.index_select(0, index)[:, None] - age).clamp_(min=0).flatten()
        rows, shares = (column.index_select(0, event).view_as(is_missing) for column in (self._tracks, self._shares))
        return batch._replace(
            history=rows.masked_fill_(is_missing, -1), history_share=shares.masked_fill_(is_missing, torch.nan)
        )


class BatchSampler(Sampler[Tensor]):
    """Yields one index tensor for each batch, in order or shuffled in every epoch.

    The order depends only on `seed` and the epoch, therefore a run can be resumed in any epoch, and in the middle of
    one.

    Args:
        num_pairs: number of pairs.
        batch_size: number of pairs in a batch; the last batch may be smaller.
        seed: seed of the order; None for no shuffling.
        shards: number of pairs of each shard; see `epoch_order` for this and the next.
        window: number of pairs that are shuffled together; None for all.
        share: which pairs of each batch are yielded; None for all.
    """

    def __init__(
        self,
        *,
        num_pairs: int,
        batch_size: int,
        seed: int | None = None,
        shards: Sequence[int] = (),
        window: int | None = None,
        share: BatchShare | None = None,
    ) -> None:
        self.num_pairs, self.batch_size, self.seed = num_pairs, batch_size, seed
        self.share = share
        self._shards, self._window = shards, window
        self.epoch = 0
        self.num_yielded = self._first = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls it before each epoch.

        Args:
            epoch: number of the epoch, from 0.
        """
        self.epoch = epoch

    def begin_at(self, batch: int) -> None:
        """Let the next iteration begin in the middle of its epoch.

        Args:
            batch: number of batches that are left out.
        """
        self._first = batch

    def __len__(self) -> int:
        return -(-self.num_pairs // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        first, self._first = self._first, 0
        if self.seed is None:
            order = iter(torch.arange(self.num_pairs).split(self.batch_size))
        else:
            parts = epoch_order(
                num_pairs=self.num_pairs, seed=self.seed, epoch=self.epoch, shards=self._shards, window=self._window
            )
            order = in_batches(parts, self.batch_size)
        for number, batch in enumerate(order):
            if number >= first:
                self.num_yielded = number + 1
                yield batch if self.share is None else batch[self.share(len(batch))]


class PairLoader(DataLoader[PairBatch]):
    """The loader of training pairs. Lightning keeps in a checkpoint how many batches of the epoch it has given."""

    sampler: BatchSampler

    def state_dict(self) -> dict[str, int]:
        """The number of batches of the epoch so far."""
        return {"batch": self.sampler.num_yielded}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Begin after as many batches."""
        self.sampler.begin_at(state_dict["batch"])


class PairDataModule(LightningDataModule):
    """Pairs of tracks from the listening logs or playlists of one source.

    Args:
        path: file or folder of the source; also a glob, or an address such as `s3://…`.
        prepare: creates the files where they are missing: takes `path` and returns the folder that holds them. None if
            the files must exist.
        files: which files, and how they are written; see `FileSettings`.
        columns: the column of each role; see `TableSettings` for this and the next eight.
        units: units of times and shares.
        zone: time zone of times that have none.
        clock: whether a timestamp is the `start` or the `end` of a play.
        ids: kind of the ids.
        artist_separator: what separates several artists.
        share: what the share played is computed from.
        shares_above_one: whether shares above 1 are capped.
        unknown_shares: whether rows without a ratio are kept.
        optional: columns that files may lack.
        catalogue: a file of tracks; see `CatalogueSettings`.
        sql: SQL for special layouts; see `SqlSettings`.
        attributes: what else is known of the tracks: a kind, or settings, for each name; see `AttributeSettings`.
        attribute_defaults: value of each setting that an attribute does not give.
        policies: which events are left out; see `Policies`.
        pairing: `consecutive`, `first` or `window`; see `PairRules` for this and the next two.
        window: largest distance for `pairing=window`, at least 1.
        split: `time`, `session`, `pair` or `auto`.
        history: largest number of tracks of the session that a batch has for each pair, at least 0. `context=` sets it.
        split_seed: seed of `split=session|pair`, in [0, 2³²). It is separate from `seed`, therefore runs with different
            seeds have the same test set.
        cold_share: share of the tracks played in training that are hidden from it, in [0, 0.9]; 0 hides none. Their
            events are left out of the training sessions, as in a log from before their release. Validation and test
            keep them.
        cold_seed: decides which tracks are hidden, in [0, 2³²). Runs with different seeds hide the same ones.
        session_gap_minutes: a longer pause ends a session, in minutes, above 0.
        max_rejected: largest share of rows that may be rejected, in [0, 1].
        rejected_path: file that rejected rows are written to.
        rejected_text: whether this file has the text of the rows, which may have ids of users.
        batch_size: number of pairs in a batch, at least 1.
        seed: seed of the order of the training pairs, in [0, 2³²).

    Raises:
        InputError: an argument is out of range.

    `prepared_by` is `prepare`, and `batch_size` the number of pairs in a batch. `prepare_data` and `setup` set `path`,
    `reading` (what was read), `catalog`, `sessions`, `vocabulary`, `pairs` (one `Pairs` for each name in SPLITS) and
    `new_tracks`: True for each track that the log plays but training does not, because it is hidden or is first heard
    in validation or test. `batch_share` says which pairs of a training batch this process has, where several train
    together.
    """

    reading: Reading
    catalog: Catalog
    sessions: Sessions
    vocabulary: Vocabulary
    pairs: dict[str, Pairs]
    new_tracks: Bool[np.ndarray, "N"]
    batch_size: int
    _part_of_session: Int8[np.ndarray, "S"] | None  # None where single pairs are split
    _shards: Sequence[int] = ()
    _shuffled_together: int | None = None  # all

    batch_share: BatchShare | None = None

    def __init__(
        self,
        *,
        path: str,
        prepare: Callable[[Path], Path] | None,
        files: Mapping[str, Any],
        columns: Mapping[str, str | None],
        units: Mapping[str, str],
        zone: str,
        clock: str,
        ids: str,
        artist_separator: str | None,
        share: str,
        shares_above_one: str,
        unknown_shares: str,
        optional: Sequence[str],
        catalogue: Mapping[str, Any] | None,
        sql: Mapping[str, Any],
        attributes: Any,
        attribute_defaults: Mapping[str, Any],
        policies: Mapping[str, Any],
        pairing: str,
        window: int,
        history: int,
        split: str,
        split_seed: int,
        cold_share: int | float,
        cold_seed: int,
        session_gap_minutes: float,
        max_rejected: float,
        rejected_path: str,
        rejected_text: bool,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        check_number("batch_size", batch_size, whole=True, least=1)
        check_number("datamodule.history", history, whole=True, least=0, hint="0 for one previous track")
        check_number("seed", seed, whole=True, least=0, most=2**32 - 1)
        check_flag("datamodule.rejected_text", rejected_text)
        self.path, self.prepared_by, self._prepare = str(path), prepare, prepare
        self._settings = table_settings(
            files=files,
            columns=columns,
            units=units,
            zone=zone,
            clock=clock,
            ids=ids,
            artist_separator=artist_separator,
            share=share,
            shares_above_one=shares_above_one,
            unknown_shares=unknown_shares,
            optional=optional,
            catalogue=catalogue,
            sql=sql,
            attributes=attributes,
            attribute_defaults=attribute_defaults,
        )
        self.rules = PairRules(
            policies=Policies.from_config(policies),
            pairing=pairing,
            window=window,
            split=split,
            split_seed=split_seed,
            cold_share=cold_share,
            cold_seed=cold_seed,
            session_gap_minutes=session_gap_minutes,
        )
        self._max_rejected = max_rejected
        self._rejections = Rejections(path=Path(rejected_path), with_text=rejected_text)
        self._history = history
        self.batch_size, self._seed = batch_size, seed
        self._summary: pd.DataFrame | None = None
        self._digest: str | None = None

    def prepare_data(self) -> None:
        """Create the files of the source if `prepare` was given. Later calls do nothing.

        Raises:
            InputError: the files cannot be created.
        """
        if self._prepare is not None:
            self.path, self._prepare = str(self._prepare(Path(self.path))), None

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - signature of Lightning; every stage needs all data
        """Read the source and split it. Later calls do nothing.

        Args:
            stage: ignored.

        Raises:
            InputError: the files cannot be read (see `read_table`), or a split has no pairs.
        """
        if self._summary is not None:
            return
        with self.source() as source:
            self.reading, self.catalog = source.reading, source.catalog
            sessions = cut_sessions(source, self.rules)
        self._assign(sessions)

    def source(self) -> AbstractContextManager[SourceEvents]:
        """Read the events of the source; `setup` cuts them into sessions.

        Returns:
            A context that has the events; see `read_table`.
        """
        return read_table(
            self.path,
            self._settings,
            min_seconds=self.rules.policies.min_seconds,
            max_rejected=self._max_rejected,
            rejections=self._rejections,
        )

    @property
    def seen_until_ms(self) -> int:
        """Latest start of a session that is not in the test set; for `split=time`, whose test sessions start later.

        In milliseconds since 1970.
        """
        assert self._part_of_session is not None, "sessions are split"
        starts = self.sessions.timestamp[self.sessions.place == 0]
        return int(starts[self._part_of_session != SPLITS.index("test")].max())

    def _assign(self, sessions: Sessions) -> None:
        """Split the sessions, or the pairs, and apply what is computed from training data alone."""
        rules, num_tracks, is_longest = self.rules, len(self.catalog), self.reading.share == "longest"
        kind, num_pairs = (
            rules.split_of(has_clock=sessions.has_clock),
            int(np.minimum(sessions.place, rules.reach).sum()),
        )
        parts = split(kind, rules.split_seed, len(sessions), num_pairs, lambda: sessions.key)
        plays = partial(training_plays, sessions, parts, rules, num_tracks)
        facts = track_facts(lambda: [plays()], self.catalog, rules, is_longest=is_longest)
        found = pairs_in_splits(sessions, parts, rules, facts)
        self.sessions, self._part_of_session, self._dropped = found.sessions, found.part, found.dropped
        self.pairs = {
            name: found.pairs.where(found.is_kept & (found.part_of_pair == part)) for part, name in enumerate(SPLITS)
        }
        if empty := [name for name, part in self.pairs.items() if not len(part)]:
            if not len(found.pairs):
                raise InputError(
                    f"no pairs: none of {len(found.sessions):,} sessions in {self.path} has two tracks; check "
                    "datamodule.columns.user, datamodule.columns.timestamp and datamodule.units.timestamp"
                )
            raise InputError(
                f"no pairs left for {' and '.join(empty)}: {len(found.sessions)} sessions with {len(found.pairs)} "
                f"pairs in {self.path} are too few for split={kind}; {self._remedy_of_few()}"
            )
        self.describe_pairs(facts.hidden)

    def describe_pairs(self, hidden: Bool[np.ndarray, "N"]) -> None:
        """Set what follows from catalogue, sessions and pairs: `vocabulary`, `new_tracks` and the summary.

        Args:
            hidden: True for each track that is hidden from training.
        """
        self.vocabulary = self._vocabulary()
        self.new_tracks = self._new_tracks(hidden)
        self._summary = self._summarise()

    def _remedy_of_few(self) -> str:
        """What to do about too few pairs: name columns that were not found, or add data."""
        columns = self.reading.columns
        if "session" in columns or {"user", "timestamp"} <= set(columns):
            return "add more logs"
        missing = [role for role in ("user", "timestamp") if role not in columns]
        return (
            f"no column is the {' or the '.join(missing)}: give "
            f"{' and '.join(f'datamodule.columns.{role}=<column>' for role in missing)}, or add more logs"
        )

    def _new_tracks(self, hidden: Bool[np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
        """The tracks that are played or hidden, and that training does not know."""
        words = self.vocabulary
        known = words.plays + words.previous_counts + words.next_counts > 0
        is_played: Bool[np.ndarray, N] = np.bincount(self.sessions.listens.track, minlength=len(known)) > 0
        return np.asarray((hidden | is_played) & ~known)

    def _vocabulary(self) -> Vocabulary:
        train, num_tracks = self.pairs["train"], len(self.catalog)
        listens = self._training_listens(train)
        played = train.following if self._part_of_session is None else listens.track
        listener_counts, mean = known_shares(train, int(self.sessions.listener.max(initial=-1)) + 1)
        return Vocabulary(
            catalog=self.catalog,
            previous_counts=np.bincount(train.previous, minlength=num_tracks),
            next_counts=np.bincount(train.following, minlength=num_tracks),
            plays=np.bincount(played, minlength=num_tracks),
            listener_counts=listener_counts,
            listens=listens,
            mean_played_ratio=mean,
        )

    def _training_listens(self, train: Pairs) -> Listens:
        if self._part_of_session is None:  # a session may have pairs of every split
            return train.as_listens()
        return self.sessions.listens.where(self._part_of_session[self.sessions.listens.session] == 0)

    def _summarise(self) -> pd.DataFrame:
        num_tracks, plays_of = (
            len(self.catalog),
            None if self._part_of_session is None else self._plays_by_part(self._part_of_session),
        )
        rows: dict[str, tuple[int | None, ...]] = {}
        for part, (name, pairs) in enumerate(self.pairs.items()):
            if plays_of is None:
                num_plays = np.bincount(pairs.previous, minlength=num_tracks)
                num_plays += np.bincount(pairs.following, minlength=num_tracks)
                num_events, num_sessions = None, len(np.unique(pairs.session))
            else:
                num_plays, num_events = plays_of[part], int(plays_of[part].sum())
                num_sessions = int((self._part_of_session == part).sum())
            tracks = np.flatnonzero(num_plays)
            num_artists = len(np.unique(self.catalog.artist_of[tracks]))
            rows[name] = (num_events, num_sessions, len(pairs), len(tracks), num_artists, None)
        num_pairs = sum(map(len, self.pairs.values()))
        size = (len(self.catalog), self.catalog.num_artists)
        num_events = len(self.sessions.listens.track)
        rows["all"] = (num_events, len(self.sessions), num_pairs, *size, self.reading.num_rejected)
        columns = ["events", "sessions", "pairs", "tracks", "artists", "rejected"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).astype("Int64")

    def _plays_by_part(self, part_of_session: Int8[np.ndarray, "S"]) -> Int64[np.ndarray, "splits N"]:
        """Number of plays of each track in each split."""
        listens, num_tracks = self.sessions.listens, len(self.catalog)
        plays = np.zeros(len(SPLITS) * num_tracks, np.int64)
        for part in slices(len(listens.track)):
            place = part_of_session[listens.session[part]].astype(np.int64) * num_tracks + listens.track[part]
            plays += np.bincount(place, minlength=len(plays))
        return plays.reshape(len(SPLITS), num_tracks)

    @property
    def dropped(self) -> dict[str, int]:
        """Number of events (with `self_pairs`, and with `split=pair`, of pairs) that each rule left out."""
        return {**self.reading.dropped, **self.sessions.dropped, **self._dropped}

    def summary(self) -> pd.DataFrame:
        """Count the content of each split. Call it after `setup`.

        Returns:
            One line for each split and a line `all`; the columns are events, sessions, pairs, distinct tracks, distinct
                artists and rejected rows. The line `all` counts the tracks and artists of the
                catalogue. With `split=pair` the events of a split are not counted.
        """
        assert self._summary is not None, "summary() before setup()"
        return self._summary

    def histories(self, pairs: Pairs) -> Histories:
        """Look up what was heard before the next track of each pair. Call it after `setup`.

        Args:
            pairs: pairs of this source.

        Returns:
            The histories; their events are those of all sessions and are not copied.
        """
        listens = self.sessions.listens
        return Histories(
            tracks=listens.track,
            played_ratio=listens.played_ratio,
            last=pairs.last,
            length=pairs.length,
            previous=pairs.previous,
        )

    def remarks(self) -> list[str]:
        """What to print below the summary. Call it after `setup`."""
        return remarks_on(
            self.reading,
            self.sessions,
            self.pairs,
            self.catalog,
            dropped=self.dropped,
            interleaved=self.rules.policies.interleaved,
            now_ms=time.time() * 1000,
        )

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
        if self.catalog.source_ids is not None:
            sha.update("\n".join(self.catalog.source_ids.tolist()).encode())
        for pairs in self.pairs.values():
            for column in (pairs.listener, pairs.previous, pairs.following, pairs.played_ratio):
                sha.update(len(column).to_bytes(8, "little"))
                sha.update(np.ascontiguousarray(column).data)
        return sha.hexdigest()[:16]

    def train_dataloader(self) -> DataLoader[PairBatch]:
        """Build the loader of the training pairs.

        Returns:
            Batches in an order that depends on the seed and the epoch.
        """
        return self._loader("train", self._seed, self.batch_share)

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

    def _loader(self, name: str, seed: int | None, share: BatchShare | None = None) -> DataLoader[PairBatch]:
        pairs = self.pairs[name]
        kind = DataLoader if seed is None else PairLoader
        return kind(
            PairDataset(pairs, self.histories(pairs), self._history),
            batch_size=None,  # the sampler yields complete batches
            collate_fn=_identity,
            sampler=BatchSampler(
                num_pairs=len(pairs),
                batch_size=self.batch_size,
                seed=seed,
                shards=self._shards,
                window=self._shuffled_together,
                share=share,
            ),
            pin_memory=torch.cuda.is_available(),
        )


def _identity(batch: Any) -> Any:
    return batch
