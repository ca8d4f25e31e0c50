"""The `LightningDataModule` of pairs that are in splits already, wherever they come from.

B pairs in a batch, P pairs in a split, S sessions, E events, N tracks.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int8, Int64
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from segue.catalog import Calendar, Catalog, Listens, Vocabulary
from segue.datamodules.batches import BatchSampler, PairDataset
from segue.datamodules.calendar import read_calendar
from segue.datamodules.pairs.pairs import Pairs, known_shares, slices
from segue.datamodules.pairs.sessions import Sessions, gather
from segue.datamodules.reading.table import Reading
from segue.datamodules.splits import SPLITS
from segue.errors import InputError
from segue.histories import Histories, Timeline
from segue.models.contracts import PairBatch
from segue.reports.numbers import utc
from segue.runs.profiles import Profiles
from segue.settings import Setting, settings

HalfLife = Annotated[
    int | float | Literal["auto"] | None,
    Setting("days after which a play of training counts half; null: all alike; auto: validation chooses", above=0),
]


@settings("datamodule")
class SplitDataModule(LightningDataModule, ABC):
    """Pairs in splits: their batches, counts and histories. What it reads from is a matter of `setup`.

    Args:
        path: of what it reads.
        prepared_by: what has created the files; None if they were there.
        history: largest number of tracks of the session that a batch has for each pair.
        half_life: days after which what training shows counts half, for every model; see `calendar.py`.
        whole_sessions: whether the training pairs of a session stay together, so that a context reads it once for all.
        seed: seed of the order of the training pairs.

    `batch_size` is the number of pairs in a batch. `setup` sets `reading` (what was read), `catalog`, `sessions`,
    `vocabulary`, `pairs` (one `Pairs` for each name in SPLITS) and `new_tracks`: True for each track that the log plays
    but training does not, because it is hidden or is first heard in validation or test. `is_by_time` says whether the
    test sessions are the newest ones.
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
    _dropped: Mapping[str, int]
    sizes: pd.DataFrame | None = None
    _digest: str | None = None
    _timeline: Timeline | None = None
    is_by_time: bool = False

    def __init__(
        self,
        *,
        path: str,
        prepared_by: Any,
        history: Annotated[int, Setting("most tracks of a session in a batch", least=0, hint="0: the previous track")],
        half_life: HalfLife = None,
        whole_sessions: Annotated[
            bool, Setting("whether the pairs of a session are in one batch, for a context that reads their order")
        ] = False,
        seed: Annotated[int, Setting("of the order of the training pairs", least=0, most=2**32 - 1, key="seed")],
    ) -> None:
        super().__init__()
        self.path, self.prepared_by = str(path), prepared_by
        self._history, self._half_life, self._seed = history, half_life, seed
        self._whole_sessions = whole_sessions
        self._calendars: dict[int | float | str | None, Calendar | None] = {}

    @property
    def last_day(self) -> str | None:
        """The last day (UTC) of its plays where the clock of this machine left later ones out; otherwise None.

        With `datamodule.policies.until=<this day>` another day gives the same data. Call it after `setup`.
        """
        return None

    def remarks(self) -> list[str]:
        """What to print below the summary. Call it after `setup`."""
        if (calendar := self.vocabulary.calendar) is None:
            return []
        half_life, days, parts = calendar.half_life, calendar.newest_days, []
        if self._half_life is not None:
            why = " (chosen on validation: datamodule.half_life=auto)" if self._half_life == "auto" else ""
            ages = "all plays count alike" if half_life is None else f"plays count half after {_days(half_life)}"
            parts.append(f"{ages}{why}")
        if days is not None:
            parts.append(f"the floor recent has the plays of the last {_days(days)} of training")
        return [f"calendar     {'; '.join(parts)}"] if parts else []

    @abstractmethod
    def as_training(self) -> "SplitDataModule":
        """The same data, of which all sessions (with `split=pair` all pairs) are for training. Call it after `setup`.

        Returns:
            A copy, whose vocabulary, sessions and pairs are made again; no track is hidden in it.
        """

    def take_choices(self, evaluated: "SplitDataModule") -> None:
        """Take what validation has chosen of the calendar from other data, because these have no validation sessions.

        Args:
            evaluated: the same data in splits.
        """
        chosen, own = evaluated.vocabulary.calendar, self.vocabulary.calendar
        if own is not None and chosen is not None:
            chosen = replace(own, half_life=chosen.half_life, newest_days=chosen.newest_days)
        self.vocabulary = replace(self.vocabulary, calendar=chosen)

    @property
    def not_as_training(self) -> str | None:
        """Why `as_training` cannot be called; None where it can."""
        return None

    def describe_pairs(self, hidden: Bool[np.ndarray, "N"]) -> None:
        """Set what follows from catalogue, sessions and pairs: `vocabulary`, `new_tracks` and the summary.

        Args:
            hidden: True for each track that is hidden from training.
        """
        train, num_tracks = self.pairs["train"], len(self.catalog)
        listens = self._training_listens(train)
        played = train.following if self._part_of_session is None else listens.track
        listener_counts, mean = known_shares(train, int(self.sessions.listener.max(initial=-1)) + 1)
        words = Vocabulary(
            catalog=self.catalog,
            previous_counts=np.bincount(train.previous, minlength=num_tracks),
            next_counts=np.bincount(train.following, minlength=num_tracks),
            plays=np.bincount(played, minlength=num_tracks),
            listener_counts=listener_counts,
            listens=listens,
            mean_played_ratio=mean,
        )
        self._calendars, self._digest = {}, None
        self.vocabulary = words = replace(words, calendar=self._calendar(words))
        known = words.plays + words.previous_counts + words.next_counts > 0
        is_played = np.bincount(self.sessions.listens.track, minlength=num_tracks) > 0
        self.new_tracks = np.asarray((hidden | is_played) & ~known)
        self.sizes = self._summarise()

    def adjust(self, settings: Mapping[str, Any]) -> None:
        """Change what its pairs do not depend on. Call it after `setup`.

        Args:
            settings: `history`, `batch_size`, `half_life` and `whole_sessions`, among others.
        """
        self._history, self.batch_size = settings["history"], settings["batch_size"] or self.batch_size
        self._whole_sessions = settings["whole_sessions"]
        if settings["half_life"] != self._half_life:
            self._half_life = settings["half_life"]
            self.vocabulary = replace(self.vocabulary, calendar=self._calendar(self.vocabulary))

    def _calendar(self, words: Vocabulary) -> Calendar | None:
        if self._half_life not in self._calendars:
            self._calendars[self._half_life] = self._read_calendar(words)
        return self._calendars[self._half_life]

    def _read_calendar(self, words: Vocabulary) -> Calendar | None:
        parts = self._part_of_session
        if parts is None or not self.sessions.has_clock or (np.diff(parts) < 0).any():
            if isinstance(self._half_life, int | float):
                raise InputError(
                    f"datamodule.half_life={self._half_life:g} lets older plays count less, and this source has no "
                    "clock, or is not split by time; leave half_life out, or give datamodule.columns.timestamp and "
                    "datamodule.split=time"
                )
            return None
        starts = self.sessions.timestamp[self.sessions.place == 0]
        last = int(starts[parts == SPLITS.index("train")].max(initial=0))
        return read_calendar(starts, last, words, self.pairs["val"], self._half_life)

    def _training_listens(self, train: Pairs) -> Listens:
        if self._part_of_session is None:  # a session may have pairs of every split
            return train.as_listens()
        return self.sessions.listens.where(self._part_of_session[self.sessions.listens.session] == 0)

    def _summarise(self) -> pd.DataFrame:
        num_tracks, part_of = len(self.catalog), self._part_of_session
        plays_of = None if part_of is None else self._plays_by_part(part_of)
        rows: dict[str, tuple[int | None, ...]] = {}
        for part, (name, pairs) in enumerate(self.pairs.items()):
            if part_of is None or plays_of is None:
                num_plays = np.bincount(np.concatenate([pairs.previous, pairs.following]), minlength=num_tracks)
                num_events, num_sessions = None, len(np.unique(pairs.session))
            else:
                num_plays, num_events = plays_of[part], int(plays_of[part].sum())
                num_sessions = int(np.count_nonzero(part_of == part))
            tracks = np.flatnonzero(num_plays)
            num_artists = len(np.unique(self.catalog.artist_of[tracks]))
            rows[name] = (num_events, num_sessions, len(pairs), len(tracks), num_artists, None)
        sizes = (len(self.sessions.listens.track), len(self.sessions), sum(map(len, self.pairs.values())))
        rows["all"] = (*sizes, num_tracks, self.catalog.num_artists, self.reading.num_rejected)
        columns = ["events", "sessions", "pairs", "tracks", "artists", "rejected"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).astype("Int64")

    def _plays_by_part(self, part_of_session: Int8[np.ndarray, "S"]) -> Int64[np.ndarray, "splits N"]:
        listens, num_tracks = self.sessions.listens, len(self.catalog)
        plays = np.zeros(len(SPLITS) * num_tracks, np.int64)
        for part in slices(len(listens.track)):
            place = part_of_session[listens.session[part]].astype(np.int64) * num_tracks + listens.track[part]
            plays += np.bincount(place, minlength=len(plays))
        return plays.reshape(len(SPLITS), num_tracks)

    @property
    def dropped(self) -> dict[str, int]:
        """Number of events (with `split=pair`, of pairs) that each rule left out."""
        return {**self.reading.dropped, **self.sessions.dropped, **self._dropped}

    def summary(self) -> pd.DataFrame:
        """Count the content of each split. Call it after `setup`.

        Returns:
            One line for each split and a line `all`; the columns are events, sessions, pairs, distinct tracks, distinct
                artists and rejected rows. The line `all` counts the tracks and artists of the
                catalogue. With `split=pair` the events of a split are not counted.
        """
        assert self.sizes is not None, "summary() before setup()"
        return self.sizes

    def span(self) -> tuple[str, str] | None:
        """Times of the first and the last play, in UTC; None where the source has no clock. Call it after `setup`."""
        times = self.sessions.timestamp
        return (utc(int(times.min())), utc(int(times.max()))) if self.sessions.has_clock else None

    def histories(self, pairs: Pairs) -> Histories:
        """Look up what was heard before the next track of each pair. Call it after `setup`.

        Returns:
            The histories; their events are those of all sessions and are not copied.
        """
        listens = self.sessions.listens
        places = {name: getattr(pairs, name) for name in ("last", "length", "previous")}
        return Histories(tracks=listens.track, played_ratio=listens.played_ratio, timeline=self.timeline, **places)

    @property
    def timeline(self) -> Timeline | None:
        """When events were played, and by whom; None where no listener has an earlier session, or without a clock."""
        sessions = self.sessions
        if not sessions.has_clock:
            return None
        if self._timeline is None or self._timeline.listener is not sessions.listener:
            self._timeline = Timeline(
                session=sessions.listens.session, timestamp=sessions.timestamp, listener=sessions.listener
            )
        return self._timeline if self._timeline.has_past else None

    def profiles(self) -> Profiles | None:
        """What each listener has heard, with keys of ids; None where these data have no ids. Call it after `setup`."""
        return None

    def check_pasts(self) -> None:
        """Refuse data in which no listener has a past. Call it after `setup`.

        Raises:
            InputError: they have no clock, or no listener has two sessions.
        """
        if self.timeline is None:
            lacks = "no listener with two sessions" if self.sessions.has_clock else "no timestamps"
            raise InputError(
                f"context=listener looks at what a listener heard in earlier sessions, and {self.path} has {lacks}; "
                "use context=session, or give datamodule.columns.user and datamodule.columns.timestamp"
            )

    def every_target(self, split: str) -> Pairs:
        """Pair every event after the first of the sessions of a split with the event before it. Call it after `setup`.

        Tracks that follow themselves and shares played do not matter. Where single pairs are split, they are the pairs
        of the split.

        Args:
            split: one of SPLITS.
        """
        if self._part_of_session is None:
            return self.pairs[split]
        return self._events(split, is_first=False)

    def first_tracks(self, split: str) -> Pairs:
        """Pair the first event of each session of a split with nothing. Call it after `setup`.

        Args:
            split: one of SPLITS.

        Returns:
            Pairs whose `length` is 0, and whose `last` and `previous` are those of the event itself; none where single
            pairs are split.
        """
        if self._part_of_session is None:
            return self.pairs[split].where(np.empty(0, np.int64))
        return self._events(split, is_first=True)

    def _events(self, split: str, *, is_first: bool) -> Pairs:
        """The first event of each session of a split, or all others."""
        listens, number = self.sessions.listens, np.flatnonzero(self._part_of_session == SPLITS.index(split))
        start, end = (np.searchsorted(listens.session, number, side) for side in ("left", "right"))
        nth, place, event = gather(start, end - start)
        nth, place, event = (column[(place == 0) == is_first] for column in (nth, place, event))
        before = event - (not is_first)
        return Pairs(
            session=number[nth],
            listener=self.sessions.listener[number[nth]],
            previous=listens.track[before],
            following=listens.track[event],
            played_ratio=listens.played_ratio[event],
            last=before,
            length=place,
        )

    def digest(self) -> str:
        """Compute a digest of the data. Call it after `setup`.

        Returns:
            Sixteen hexadecimal digits. They change if a pair, its listener, its split or the catalogue changes.
        """
        if self._digest is not None:
            return self._digest
        sha = hashlib.sha256(self.catalog.keys.tobytes() + self.catalog.artist_of.tobytes())
        for pairs in self.pairs.values():
            for column in (pairs.listener, pairs.previous, pairs.following, pairs.played_ratio):
                sha.update(len(column).to_bytes(8, "little"))
                sha.update(np.ascontiguousarray(column).data)
        self._digest = sha.hexdigest()[:16]
        return self._digest

    def train_dataloader(self, seed: int | None = None) -> DataLoader[PairBatch]:
        """Build the loader of the training pairs.

        Args:
            seed: of the order; None for that of the run.

        Returns:
            Batches in an order that depends on the seed and the epoch; with `trainer=ddp`, the part of this process.
        """
        place = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self._loader("train", self._seed if seed is None else seed, place)

    def val_dataloader(self) -> DataLoader[PairBatch]:
        """Build the loader of the validation pairs."""
        return self._loader("val", None)

    def test_dataloader(self) -> DataLoader[PairBatch]:
        """Build the loader of the test pairs."""
        return self._loader("test", None)

    def _loader(self, name: str, seed: int | None, place: tuple[int, int] = (0, 1)) -> DataLoader[PairBatch]:
        pairs = self.pairs[name]
        return DataLoader(
            PairDataset(pairs, self.histories(pairs), self._history),
            batch_size=None,  # the sampler yields complete batches
            collate_fn=_identity,
            sampler=BatchSampler(
                num_pairs=len(pairs),
                batch_size=self.batch_size,
                seed=seed,
                shards=self._shards,
                window=self._shuffled_together,
                sessions=torch.from_numpy(pairs.session) if self._whole_sessions else None,
                place=place,
            ),
            pin_memory=torch.cuda.is_available(),
        )


def _days(number: float) -> str:
    return f"{number:g} day{'s' * (number != 1)}"


ADJUSTED = ("history", "batch_size", "half_life", "whole_sessions")
"""Settings of `SplitDataModule.adjust`."""


def _identity(batch: Any) -> Any:
    return batch
