"""Policies: which valid events and pairs are left out, and why. Each is a setting, and is counted.

S sessions, E events, P pairs, N tracks, L listeners. Their order: `min_seconds`, `duplicates`, `interleaved`,
`repeats`, `longest_session`, `min_sessions`, then the split, then `min_count`, then `self_pairs`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from segue.datamodules.pairs.interleaved import check_policy
from segue.datamodules.reading.table_settings import check_choice
from segue.errors import check_number
from segue.settings import refuse_unknown


@dataclass(frozen=True, kw_only=True)
class Policies:
    """The keys of `datamodule.policies`.

    Args:
        duplicates: `drop` or `keep` events that repeat an event: same user, timestamp, track and share.
        min_seconds: plays that are shorter are left out, in seconds; 0 for none.
        repeats: `drop` or `keep` later plays of a track in a session.
        self_pairs: `drop` or `keep` pairs of a track with itself.
        longest_session: sessions with more tracks are left out; None for no limit.
        min_count: events of tracks with fewer plays in training are left out; 1 for none.
        min_sessions: users with fewer sessions are left out; 1 for none.
        interleaved: sessions of one user at the same time: `separate`, `keep` or `drop`; see `separate`.
    """

    duplicates: str
    min_seconds: int | float
    repeats: str
    self_pairs: str
    longest_session: int | None
    min_count: int
    min_sessions: int
    interleaved: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Policies":
        """Check the settings.

        Args:
            config: a value for each argument of the class.

        Raises:
            InputError: a key is unknown, or a value is not allowed.
        """
        refuse_unknown(config, [field.name for field in fields(cls)], key="datamodule.policies")
        policies = cls(**config)
        for name in ("duplicates", "repeats", "self_pairs"):
            check_choice(f"datamodule.policies.{name}", getattr(policies, name), ("drop", "keep"))
        check_policy("datamodule.policies.interleaved", policies.interleaved)
        check_number("datamodule.policies.min_seconds", policies.min_seconds, least=0)
        for name in ("min_count", "min_sessions"):
            check_number(f"datamodule.policies.{name}", getattr(policies, name), whole=True, least=1)
        if (longest := policies.longest_session) is not None:
            check_number("datamodule.policies.longest_session", longest, whole=True, least=2, hint="null for no limit")
        return policies


def duplicates(columns: Mapping[str, np.ndarray]) -> Bool[np.ndarray, "E"]:
    """Whether each event repeats an earlier one: same user, timestamp, track and share.

    Args:
        columns: the columns `user_id`, `timestamp`, `track` and `share` of events, sorted by user and timestamp.
    """
    user, time = columns["user_id"], columns["timestamp"]
    ties = np.concatenate([[False], (user[1:] == user[:-1]) & (time[1:] == time[:-1])])[: len(user)]
    result = np.zeros(len(user), bool)
    if not ties.any():
        return result
    tied = np.flatnonzero(ties | np.concatenate([ties[1:], [False]]))
    share = np.nan_to_num(columns["share"][tied], nan=-1.0)
    order = np.lexsort((tied, share, columns["track"][tied], time[tied], user[tied]))
    keys = [column[order] for column in (share, columns["track"][tied], time[tied], user[tied])]
    same = np.concatenate([[False], np.logical_and.reduce([key[1:] == key[:-1] for key in keys])])
    result[tied[order]] = same
    return result


def repeats(session: Int64[np.ndarray, "E"], track: Int64[np.ndarray, "E"]) -> Bool[np.ndarray, "E"]:
    """Whether each event plays a track that its session has played before.

    Args:
        session: number of the session of each event, ascending.
        track: row of the track of each event.
    """
    order = np.lexsort((track, session))
    again = np.zeros(len(track), bool)
    of, what = session[order], track[order]
    again[order[1:]] = (of[1:] == of[:-1]) & (what[1:] == what[:-1])  # lexsort is stable: the first one comes first
    return again
