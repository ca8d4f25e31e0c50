"""The `LightningDataModule`: files → events → sessions → splits → pairs, or the pairs that `prepare.py` has made.

S sessions, B pairs in a batch, N tracks.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int8
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from segue.catalog import Catalog, Vocabulary
from segue.datamodules.batches import BatchSampler, PairDataset
from segue.datamodules.calendar import calendar_of
from segue.datamodules.log_source import LogSource
from segue.datamodules.pairs.pairs import Pairs
from segue.datamodules.pairs.pairs_in_splits import pairs_in_splits
from segue.datamodules.pairs.profiles_of_sessions import profiles_of
from segue.datamodules.pairs.sessions import Sessions, cut_sessions
from segue.datamodules.pairs.split_pairs import SplitPairs
from segue.datamodules.remarks import remark_on_calendar
from segue.datamodules.shard_source import ShardSource
from segue.datamodules.splits import parts_of
from segue.errors import InputError
from segue.histories import Histories
from segue.models.contracts import PairBatch
from segue.runs.profiles import Profiles
from segue.settings import Setting, settings


@settings("datamodule")
class PairDataModule(LightningDataModule):
    """Pairs of tracks in splits, and their batches.

    Args:
        source: the logs, or the shards that were made of them.
        seed: of the order of the training pairs.

    Attributes:
        data: what was read, whose columns may be mapped from files. `catalog`, `sessions` and `pairs` are parts of it.
        vocabulary: what training shows of the tracks, with the calendar.
        new_tracks: True for each track that the log plays but training does not.
        cut: all sessions before training leaves out any of their events, and their splits; None of shards.
    """

    data: SplitPairs
    catalog: Catalog
    vocabulary: Vocabulary
    sessions: Sessions
    pairs: Mapping[str, Pairs]
    new_tracks: Bool[np.ndarray, "N"]
    cut: tuple[Sessions, Int8[np.ndarray, "_"]] | None = None

    def __init__(
        self,
        *,
        source: LogSource | ShardSource,
        history: Annotated[int, Setting("most tracks of a session in a batch", least=0, hint="0: the previous track")],
        half_life: Annotated[
            int | float | Literal["auto"] | None,
            Setting("days after which a play counts half; null: all count alike; auto: validation chooses", above=0),
        ] = None,
        whole_sessions: Annotated[
            bool, Setting("whether the pairs of a session are in one batch, for a context that reads their order")
        ] = False,
        batch_size: Annotated[int | None, Setting("pairs in a batch; null: as the source has it", least=1)] = None,
        seed: Annotated[int, Setting("of the order of the training pairs", least=0, most=2**32 - 1, key="seed")],
    ) -> None:
        super().__init__()
        self.source, self.path = source, str(source.path)
        self.batch_size: int = batch_size or source.batch_size or 0  # 0: shards say it when they are read
        self._history, self._half_life, self._whole_sessions, self._seed = history, half_life, whole_sessions, seed

    def prepare_data(self) -> None:
        """Create the files of logs where that is asked for. Later calls do nothing."""
        self.source.prepare()
        self.path = str(self.source.path)

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - signature of Lightning; every stage needs all data
        """Read the source and split it. Later calls do nothing.

        Raises:
            InputError: the files cannot be read, or a split has no pairs.
        """
        if hasattr(self, "data"):
            return
        if isinstance(self.source, ShardSource):
            self._take(self.source.map())
            self.batch_size = self.batch_size or self.source.batch_size or 0
            return
        rules = self.source.rules
        with self.source.events() as events:  # files → events
            sessions = cut_sessions(events, rules)  # events → sessions
        parts = parts_of(sessions, rules)  # sessions → splits
        self.cut = sessions, parts
        self._take(pairs_in_splits(sessions, parts, rules, events.catalog, events.reading))  # splits → pairs
        if empty := [name for name, pairs in self.pairs.items() if not len(pairs)]:
            kind, num_pairs = rules.split_of(has_clock=sessions.has_clock), sum(map(len, self.pairs.values()))
            found = f"no pairs left for {' and '.join(empty)}: {len(self.sessions):,} sessions with {num_pairs:,} pairs"
            raise InputError(f"{found} in {self.path} are too few for split={kind}; see describe.py, or add more logs")

    def _take(self, data: SplitPairs) -> None:
        self.data, self.catalog, self.sessions, self.pairs = data, data.catalog, data.sessions, data.pairs
        self.reading, self.dropped, self.is_by_time = data.reading, data.dropped, data.is_by_time
        if len(data.pairs["train"]):
            self.vocabulary = replace(data.vocabulary, calendar=calendar_of(data, self._half_life))
            self.new_tracks = data.new_to(self.vocabulary)

    def as_training(self) -> "PairDataModule":
        """The same data, of which all sessions (with `split=pair` all pairs) are for training. Call it after `setup`.

        Returns:
            A copy that is made again; no track is hidden in it, and what validation has chosen of the calendar is kept.
        """
        other, chosen = copy(self), self.vocabulary.calendar
        if isinstance(self.source, ShardSource):
            other._take(self.source.map(is_all_training=True))
        else:
            assert self.cut is not None
            sessions, parts = self.cut
            rules = replace(self.source.rules, cold_share=0.0)
            other._take(pairs_in_splits(sessions, np.zeros_like(parts), rules, self.catalog, self.data.reading))
        if chosen is not None and (own := other.vocabulary.calendar) is not None:
            chosen = replace(own, half_life=chosen.half_life, newest_days=chosen.newest_days)
        other.vocabulary = replace(other.vocabulary, calendar=chosen)
        return other

    def adjust(self, given: Mapping[str, Any]) -> None:
        """Change what its pairs do not depend on. Call it after `setup`.

        Args:
            given: `history`, `batch_size`, `half_life` and `whole_sessions`, among others.
        """
        self._history, self._whole_sessions = given["history"], given["whole_sessions"]
        self.batch_size = given["batch_size"] or self.batch_size
        if given["half_life"] != self._half_life:
            self._half_life = given["half_life"]
            self.vocabulary = replace(self.vocabulary, calendar=calendar_of(self.data, self._half_life))

    def histories(self, pairs: Pairs) -> Histories:
        """What was heard before the next track of each pair. Its events are those of all sessions, not copied."""
        return self.data.histories(pairs)

    def profiles(self) -> Profiles | None:
        """What each listener has heard, with keys of ids; None of shards, which have no ids."""
        return None if isinstance(self.source, ShardSource) else profiles_of(self.sessions, self.catalog)

    def digest(self) -> str:
        """Sixteen hexadecimal digits, which change if a pair, its listener, its split or the catalogue changes."""
        return self.data.digest

    def summary(self) -> pd.DataFrame:
        """The size of each split; see `SplitPairs.sizes`."""
        return self.data.sizes

    def remarks(self) -> list[str]:
        """What to print below the summary."""
        return [*self.source.remarks(self.data), *remark_on_calendar(self.vocabulary.calendar, self._half_life)]

    def train_dataloader(self, seed: int | None = None) -> DataLoader[PairBatch]:
        """Batches of training pairs, in an order that depends on the seed and the epoch.

        Args:
            seed: None for that of the run. With `trainer=ddp`, each process has its part of each batch.
        """
        return self._loader("train", self._seed if seed is None else seed)

    def val_dataloader(self) -> DataLoader[PairBatch]:
        """Batches of validation pairs."""
        return self._loader("val", None)

    def test_dataloader(self) -> DataLoader[PairBatch]:
        """Batches of test pairs."""
        return self._loader("test", None)

    def _loader(self, split: str, seed: int | None) -> DataLoader[PairBatch]:
        pairs, trainer = self.pairs[split], self.trainer if seed is not None else None
        sampler = BatchSampler(
            num_pairs=len(pairs),
            batch_size=self.batch_size,
            seed=seed,
            shards=self.data.shards,
            window=self.source.shuffled_together,
            sessions=torch.from_numpy(pairs.session) if self._whole_sessions else None,
            place=(trainer.global_rank, trainer.world_size) if trainer else (0, 1),
        )
        dataset = PairDataset(pairs, self.histories(pairs), self._history)
        return DataLoader(
            dataset, batch_size=None, collate_fn=_identity, sampler=sampler, pin_memory=torch.cuda.is_available()
        )


def _identity(batch: Any) -> Any:
    return batch
