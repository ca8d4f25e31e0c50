"""From sessions to pairs, each in its split, for all sessions or for some of them at a time.

What training says of each track comes first: whether it is rare, whether it is hidden as a new one, how long it lasts.
S sessions, E events, P pairs, N tracks. *Parts* are places in `SPLITS`: one for each session or, with `split=pair`,
each pair.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int8, Int64

from segue.catalog import Catalog
from segue.datamodules.pairs.pair_rules import PairRules
from segue.datamodules.pairs.pairs import Pairs, make_pairs
from segue.datamodules.pairs.sessions import Sessions
from segue.datamodules.pairs.split_pairs import SplitPairs
from segue.datamodules.reading.table import Reading
from segue.datamodules.splits import SPLITS
from segue.errors import InputError

Plays = tuple[Int64[np.ndarray, "N"], Float32[np.ndarray, "N"]]
"""Number of plays of each track, and the longest of them in milliseconds; 0 without a play."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TrackFacts:
    """What is known of the tracks.

    Args:
        longest: the longest play of each track, in milliseconds, NaN where there is none; None if the source has
            durations or no times played. It takes the place of the duration.
        rare: True for each track with fewer plays than `min_count`.
        hidden: True for each track that is hidden from training.
    """

    longest: Float32[np.ndarray, "N"] | None
    rare: Bool[np.ndarray, "N"]
    hidden: Bool[np.ndarray, "N"]

    def shares(self, track: Int64[np.ndarray, "E"], played_ratio: Float32[np.ndarray, "E"]) -> Float32[np.ndarray, "E"]:
        """The share played of each event, at most 1; NaN where it or the longest play is unknown.

        Args:
            track: row of the track of each event.
            played_ratio: share played, or where there is a longest play, milliseconds.
        """
        if self.longest is None:
            return played_ratio
        return np.asarray(np.minimum(played_ratio / self.longest[track], np.float32(1.0)))


def training_plays(sessions: Sessions, parts: Int8[np.ndarray, "_"], rules: PairRules, num_tracks: int) -> Plays:
    """Count the training plays of each track.

    Args:
        parts: place in `SPLITS` of each of them or, with `split=pair`, of each of their pairs.
        rules: which pairs they make.
    """
    if rules.split == "pair":
        train = make_pairs(sessions, rules).where(parts == 0)
        track, played_ms = train.following, train.played_ratio
    else:
        events = sessions.listens.where(parts[sessions.listens.session] == 0)
        track, played_ms = events.track, events.played_ratio
    longest = np.zeros(num_tracks, np.float32)
    np.maximum.at(longest, track, np.nan_to_num(played_ms, nan=0.0))
    return np.bincount(track, minlength=num_tracks), longest


def track_facts(plays: Iterable[Plays], catalog: Catalog, rules: PairRules, *, is_longest: bool) -> TrackFacts:
    """Learn of the tracks from all training events.

    Args:
        plays: counts of some of them at a time, in any order; they are asked for if a rule needs them.
        rules: `min_count` and `cold_share`.
        is_longest: whether shares are those of the longest play.

    Raises:
        InputError: `cold_share` is so small that it hides no track.
    """
    rare, hidden = np.zeros(len(catalog), bool), np.zeros(len(catalog), bool)
    if not (is_longest or rules.cold_share or rules.policies.min_count > 1):
        return TrackFacts(longest=None, rare=rare, hidden=hidden)
    counts, longest = np.zeros(len(catalog), np.int64), np.zeros(len(catalog), np.float32)
    for num, most in plays:
        counts += num
        np.maximum(longest, most, out=longest)
    if rules.policies.min_count > 1:
        rare = counts < rules.policies.min_count
    if rules.cold_share:
        played = np.where(rare, 0, counts)
        hidden = hidden_tracks(catalog, played, cold_share=rules.cold_share, cold_seed=rules.cold_seed)
    known = np.where(longest > 0, longest, np.float32(np.nan)) if is_longest else None
    return TrackFacts(longest=known, rare=rare, hidden=hidden)


def hidden_tracks(
    catalog: Catalog, plays: Int64[np.ndarray, "N"], *, cold_share: int | float, cold_seed: int
) -> Bool[np.ndarray, "N"]:
    """Choose the tracks that are hidden from training: a random share of those that training plays.

    A hash of the id decides. Longer logs of the same tracks therefore hide nearly the same ones.

    Args:
        plays: number of training plays of each track.
        cold_share: share of the played tracks, in [0, 0.9].
        cold_seed: enters the hash, in [0, 2³²).

    Returns:
        True for each hidden track. Their number is the share, rounded.

    Raises:
        InputError: the share is not 0, and so small that it hides no track.
    """
    ids = catalog.track_ids if catalog.has_texts else catalog.track_ids.astype(str).astype(object)
    hashes = pd.util.hash_array(ids, hash_key=f"{cold_seed:016d}", categorize=False)
    played = np.flatnonzero(plays)
    if cold_share and not round(cold_share * len(played)):
        raise InputError(
            f"datamodule.cold_share={cold_share} hides none of the {len(played):,} tracks that training plays; raise it"
        )
    chosen = played[np.argsort(hashes[played], kind="stable")[: round(cold_share * len(played))]]
    hidden = np.zeros(len(plays), bool)
    hidden[chosen] = True
    return hidden


class Paired(NamedTuple):
    """Sessions without the events that are left out, and their pairs; see `SplitPairs`, which has the same and more.

    Attributes:
        dropped: number of events (with `split=pair`, of pairs) that each rule of pairs left out.
    """

    sessions: Sessions
    part: Int8[np.ndarray, "S"] | None
    pairs: Mapping[str, Pairs]
    dropped: Mapping[str, int]


def paired(sessions: Sessions, parts: Int8[np.ndarray, "_"], rules: PairRules, facts: TrackFacts) -> Paired:
    """Leave out what training says to leave out, and pair the rest.

    Args:
        parts: of them, or of their pairs.
        rules: which pairs they make.
    """
    listens, is_by_pair = sessions.listens, rules.split == "pair"
    listens = replace(listens, played_ratio=facts.shares(listens.track, listens.played_ratio))
    sessions, remaining = replace(sessions, listens=listens), np.arange(len(sessions))
    left_out: dict[str, Bool[np.ndarray, E]] = {}
    if rules.policies.min_count > 1 and not is_by_pair:
        left_out["min_count"] = facts.rare[listens.track]
    if rules.cold_share:  # as if these tracks had not been released yet
        left_out["cold_share"] = facts.hidden[listens.track] & (parts[listens.session] == 0)
    if left_out:
        sessions, remaining = sessions.without(left_out)
    pairs, dropped = make_pairs(sessions, rules), dict(sessions.dropped)
    part_of_pair = parts if is_by_pair else parts[remaining][pairs.session]
    if is_by_pair:
        is_rare = facts.rare[pairs.previous] | facts.rare[pairs.following]
        part_of_pair, dropped["min_count"] = np.where(is_rare, -1, part_of_pair), int(is_rare.sum())
    return Paired(
        sessions=sessions,
        part=None if is_by_pair else parts[remaining],
        pairs={name: pairs.where(part_of_pair == part) for part, name in enumerate(SPLITS)},
        dropped=dropped,
    )


def pairs_in_splits(
    sessions: Sessions, parts: Int8[np.ndarray, "_"], rules: PairRules, catalog: Catalog, reading: Reading
) -> SplitPairs:
    """The pairs of all sessions of a source.

    Args:
        parts: place in `SPLITS` of each session or, with `split=pair`, of each pair.

    Raises:
        InputError: `cold_share` is so small that it hides no track.
    """
    plays = (training_plays(sessions, of, rules, len(catalog)) for of in [parts])  # only if it is needed
    facts = track_facts(plays, catalog, rules, is_longest=reading.share == "longest")
    found = paired(sessions, parts, rules, facts)
    kind = rules.split_of(has_clock=sessions.has_clock)
    columns = {**found._asdict(), "dropped": {**reading.dropped, **found.dropped}}
    return SplitPairs(
        catalog=catalog, reading=reading, hidden=facts.hidden, is_by_time=kind in ("time", "order"), **columns
    )
