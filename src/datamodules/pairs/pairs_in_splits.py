"""From sessions to pairs, each in its split, for all sessions or for some of them at a time.

S sessions, E events, P pairs. *Parts* are places in `SPLITS`: one for each session or, with `split=pair`, each pair.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int8, Int64

from segue.datamodules.pairs.pair_rules import PairRules
from segue.datamodules.pairs.pairs import Pairs, make_pairs
from segue.datamodules.pairs.sessions import Sessions
from segue.datamodules.pairs.training_tracks import TrackFacts


@dataclass(frozen=True, eq=False, kw_only=True)
class SplitPairs:
    """Sessions without the events that are left out, and their pairs.

    Args:
        sessions: the sessions that are left.
        remaining: the numbers that they had before.
        part: the part of each; None where single pairs are split.
        pairs: all pairs of these sessions.
        part_of_pair: the part of each pair.
        is_kept: False for each pair that is left out.
        dropped: number of pairs that each rule left out; `sessions.dropped` counts events.
    """

    sessions: Sessions
    remaining: Int64[np.ndarray, "S"]
    part: Int8[np.ndarray, "S"] | None
    pairs: Pairs
    part_of_pair: Int8[np.ndarray, "P"]
    is_kept: Bool[np.ndarray, "P"]
    dropped: Mapping[str, int]


def pairs_in_splits(
    sessions: Sessions, parts: Int8[np.ndarray, "_"], rules: PairRules, facts: TrackFacts
) -> SplitPairs:
    """Leave out what training says to leave out, and pair the rest.

    Args:
        sessions: some sessions.
        parts: of them, or of their pairs.
        rules: which pairs they make.
        facts: of the tracks.
    """
    listens, is_by_pair, dropped = sessions.listens, rules.split == "pair", {}
    listens = replace(listens, played_ratio=facts.shares(listens.track, listens.played_ratio))
    sessions, remaining = replace(sessions, listens=listens), np.arange(len(sessions))
    left_out: dict[str, Bool[np.ndarray, E]] = {}
    if rules.policies.min_count > 1 and not is_by_pair:
        left_out["min_count"] = facts.rare[listens.track]
    if rules.cold_share:  # as if these tracks had not been released yet
        left_out["cold_share"] = facts.hidden[listens.track] & (parts[listens.session] == 0)
    if left_out:
        sessions, remaining = sessions.without(left_out)
    pairs = make_pairs(sessions, rules)
    is_kept = np.ones(len(pairs), bool)
    if is_by_pair:
        is_kept = ~(facts.rare[pairs.previous] | facts.rare[pairs.following])
        dropped["min_count"] = int((~is_kept).sum())
    if rules.policies.self_pairs == "drop":
        is_self = is_kept & (pairs.previous == pairs.following)
        dropped["self_pairs"] = int(is_self.sum())
        is_kept &= ~is_self
    return SplitPairs(
        sessions=sessions,
        remaining=remaining,
        part=None if is_by_pair else parts[remaining],
        pairs=pairs,
        part_of_pair=parts if is_by_pair else parts[remaining][pairs.session],
        is_kept=is_kept,
        dropped=dropped,
    )
