"""What a source has become: its tracks, its sessions, and its pairs in splits.

Its columns are in memory or mapped from files. P pairs in a split, S sessions, E events, N tracks.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int8

from segue.catalog import Catalog, Listens, Vocabulary
from segue.datamodules.pairs.pairs import Pairs, known_shares, slices
from segue.datamodules.pairs.sessions import Sessions, gather
from segue.datamodules.reading.table import Reading
from segue.datamodules.splits import SPLITS
from segue.histories import Histories, Timeline
from segue.reports.numbers import utc


@dataclass(frozen=True, eq=False, kw_only=True)
class SplitPairs:
    """Sessions and pairs in splits.

    Args:
        catalog: every track.
        reading: what was read.
        sessions: without the events that are left out.
        part: place in SPLITS of each session; None where single pairs are split.
        pairs: those of each split, by its name.
        hidden: True for each track that is hidden from training.
        dropped: number of events (with `split=pair`, of pairs) that each rule left out.
        is_by_time: whether the test sessions are the newest ones.
        shards: number of training pairs of each shard; none where the pairs are in memory.
        heard: events of the training sessions, where they are mapped on their own; None where `sessions` has them.
    """

    catalog: Catalog
    reading: Reading
    sessions: Sessions
    part: Int8[np.ndarray, "S"] | None
    pairs: Mapping[str, Pairs]
    hidden: Bool[np.ndarray, "N"]
    dropped: Mapping[str, int]
    is_by_time: bool
    shards: Sequence[int] = ()
    heard: Listens | None = None

    @property
    def comes_in_order(self) -> bool:
        """Whether all training sessions come first, then all of validation, then all of the test."""
        return self.part is not None and not (np.diff(self.part) < 0).any()

    @cached_property
    def training_listens(self) -> Listens:
        """Events of the training sessions; where single pairs are split, each training pair is a session of two."""
        listens = self.sessions.listens
        if self.part is None:  # a session may have pairs of every split
            return self.pairs["train"].as_listens()
        if self.heard is not None:
            return self.heard
        if not self.comes_in_order:
            return listens.where((self.part == 0)[listens.session])
        end = int(np.searchsorted(listens.session, np.count_nonzero(self.part == 0)))
        return Listens(**{name: column[:end] for name, column in vars(listens).items()})

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the training pairs show of the tracks, without a calendar."""
        train, listens, num_tracks = self.pairs["train"], self.training_listens, len(self.catalog)
        played = train.following if self.part is None else listens.track
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

    def new_to(self, words: Vocabulary) -> Bool[np.ndarray, "N"]:
        """True for each track that is hidden or played here, and that training does not show."""
        known = words.plays + words.previous_counts + words.next_counts > 0
        is_played = np.bincount(self.sessions.listens.track, minlength=len(self.catalog)) > 0
        return np.asarray((self.hidden | is_played) & ~known)

    @cached_property
    def timeline(self) -> Timeline | None:
        """When events were played, and by whom; None where no listener has an earlier session, or without a clock."""
        sessions = self.sessions
        if not sessions.has_clock:
            return None
        columns = {"session": sessions.listens.session, "timestamp": sessions.timestamp, "listener": sessions.listener}
        return found if (found := Timeline(**columns)).has_past else None

    def histories(self, pairs: Pairs) -> Histories:
        """What was heard before the next track of each pair. Its events are those of all sessions, not copied."""
        listens = self.sessions.listens
        places = {name: getattr(pairs, name) for name in ("last", "length", "previous")}
        return Histories(tracks=listens.track, played_ratio=listens.played_ratio, timeline=self.timeline, **places)

    def events_of(self, split: str) -> Pairs:
        """All events of the sessions of a split but the first ones, each with the event before it.

        They count whatever their shares, and whether a track follows itself. Where single pairs are split, they are the
        pairs of the split.
        """
        if self.part is None:
            return self.pairs[split]
        listens, number = self.sessions.listens, np.flatnonzero(self.part == SPLITS.index(split))
        start, end = (np.searchsorted(listens.session, number, side) for side in ("left", "right"))
        nth, place, event = gather(start, end - start)
        nth, place, event = (column[place > 0] for column in (nth, place, event))
        before = event - 1
        return Pairs(
            session=number[nth],
            listener=self.sessions.listener[number[nth]],
            previous=listens.track[before],
            following=listens.track[event],
            played_ratio=listens.played_ratio[event],
            last=before,
            length=place,
        )

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits, which change if a pair, its listener, its split or the catalogue changes."""
        sha = hashlib.sha256(self.catalog.keys.tobytes() + self.catalog.artist_of.tobytes())
        for pairs in self.pairs.values():
            for column in (pairs.listener, pairs.previous, pairs.following, pairs.played_ratio):
                sha.update(len(column).to_bytes(8, "little"))
                sha.update(np.ascontiguousarray(column).data)
        return sha.hexdigest()[:16]

    def span(self) -> tuple[str, str] | None:
        """Times of the first and the last play, in UTC; None where the source has no clock."""
        times = self.sessions.timestamp
        return (utc(int(times.min())), utc(int(times.max()))) if self.sessions.has_clock else None

    @cached_property
    def sizes(self) -> pd.DataFrame:
        """One line for each split and a line `all`.

        The columns are events, sessions, pairs, distinct tracks, distinct artists and rejected rows. The line `all`
        counts the tracks and artists of the catalogue. Where single pairs are split, their events are not counted.
        """
        num_tracks, listens, plays = len(self.catalog), self.sessions.listens, None
        if self.part is not None:
            plays = np.zeros(len(SPLITS) * num_tracks, np.int64)
            for some in slices(len(listens.track)):
                place = self.part[listens.session[some]].astype(np.int64) * num_tracks + listens.track[some]
                plays += np.bincount(place, minlength=len(plays))
        rows: dict[str, tuple[int | None, ...]] = {}
        for number, (name, pairs) in enumerate(self.pairs.items()):
            if plays is None or self.part is None:
                played = np.union1d(pairs.previous, pairs.following)
                num_events, num_sessions = None, len(np.unique(pairs.session))
            else:
                own = plays[number * num_tracks : (number + 1) * num_tracks]
                played = np.flatnonzero(own)
                num_events, num_sessions = int(own.sum()), int(np.count_nonzero(self.part == number))
            num_artists = len(np.unique(self.catalog.artist_of[played]))
            rows[name] = (num_events, num_sessions, len(pairs), len(played), num_artists, None)
        total = (len(listens.track), len(self.sessions), sum(map(len, self.pairs.values())))
        rows["all"] = (*total, num_tracks, self.catalog.num_artists, self.reading.num_rejected)
        columns = ["events", "sessions", "pairs", "tracks", "artists", "rejected"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).astype("Int64")
