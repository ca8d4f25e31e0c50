"""Policies: which valid events and pairs are left out, and why. Each is a setting, and is counted.

E events. Their order: `min_seconds`, `duplicates`, `interleaved`, `repeats`, `longest_session`, `min_sessions`, then
the split, then `min_count`, then `self_pairs`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from segue.datamodules.pairs.interleaved import POLICIES
from segue.datamodules.reading.files import refuse_unknown
from segue.settings import Setting, settings

_DROP_OR_KEEP = ("drop", "keep")


@settings("datamodule.policies")
@dataclass(frozen=True, kw_only=True)
class Policies:
    """The keys of `datamodule.policies`."""

    duplicates: Annotated[
        str, Setting("events that repeat an event: same user, timestamp, track and share", choices=_DROP_OR_KEEP)
    ]
    min_seconds: Annotated[float, Setting("plays that are shorter are left out, in seconds; 0 for none", least=0)]
    repeats: Annotated[str, Setting("later plays of a track in a session", choices=_DROP_OR_KEEP)]
    self_pairs: Annotated[str, Setting("pairs of a track with itself", choices=_DROP_OR_KEEP)]
    longest_session: Annotated[
        int | None, Setting("sessions with more tracks are left out", least=2, hint="null for no limit")
    ]
    min_count: Annotated[int, Setting("events of tracks with fewer plays in training are left out", least=1)]
    min_sessions: Annotated[int, Setting("users with fewer sessions are left out", least=1)]
    interleaved: Annotated[
        str, Setting("sessions of one user at the same time; see the function `separate`", choices=POLICIES)
    ]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Policies":
        """Check the settings.

        Args:
            config: a value for each argument of the class.

        Raises:
            InputError: a key is unknown, or a value is not allowed.
        """
        refuse_unknown(config, [field.name for field in fields(cls)], key="datamodule.policies")
        return cls(**config)


def duplicates(columns: Mapping[str, np.ndarray]) -> Bool[np.ndarray, "E"]:
    """Whether each event repeats an earlier one: same user, timestamp, track and share.

    Args:
        columns: the columns `user_id`, `timestamp`, `track` and `share` of events, sorted by user and timestamp.
    """
    user, time = columns["user_id"], columns["timestamp"]
    ties = np.flatnonzero((user[1:] == user[:-1]) & (time[1:] == time[:-1]))
    tied, result = np.union1d(ties, ties + 1), np.zeros(len(user), bool)
    keys = {name: columns[name][tied] for name in ("user_id", "timestamp", "track", "share")}
    result[tied] = pd.DataFrame(keys).duplicated()
    return result


def repeats(session: Int64[np.ndarray, "E"], track: Int64[np.ndarray, "E"]) -> Bool[np.ndarray, "E"]:
    """Whether each event plays a track that its session has played before.

    Args:
        session: number of the session of each event.
        track: row of the track of each event.
    """
    return np.asarray(pd.DataFrame({"session": session, "track": track}).duplicated())
