"""What each listener of sessions has heard, as profiles; and listeners who are left out.

L listeners, E events.
"""

from pathlib import Path

import numpy as np

from segue.catalog import Catalog, keys_of
from segue.datamodules.pairs.sessions import Sessions
from segue.errors import InputError
from segue.runs.profiles import Profiles, entries_of_events

_AT_ONCE = 1 << 20  # events that are sorted together, about


def profiles_of(sessions: Sessions, catalog: Catalog) -> Profiles:
    """The profiles of all listeners, some listeners at a time.

    Args:
        sessions: with the ids of users.
        catalog: of their tracks.
    """
    listens, (_, first) = sessions.listens, np.unique(sessions.listener, return_index=True)
    numbers, keys = sessions.listener[first], keys_of(sessions.user[first])
    place = np.zeros(int(numbers.max(initial=0)) + 1, np.int64)  # of each listener, in the order of keys
    place[numbers[np.argsort(keys, kind="stable")]] = np.arange(len(numbers))
    keys = np.sort(keys)
    of_event = place[sessions.listener][listens.session]
    before = np.bincount(of_event, minlength=len(keys)).cumsum()
    owners, parts = [np.empty(0, np.int64)], [entries_of_events(*_NOTHING)[1]]
    low = 0
    while low < len(keys):
        reached = before[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(before, reached + _AT_ONCE, "right")))
        [event] = ((of_event >= low) & (of_event < high)).nonzero()
        track, share, time = (column[event] for column in (listens.track, listens.played_ratio, sessions.timestamp))
        owner, entries = entries_of_events(of_event[event], track, share, time)
        entries["track"] = catalog.keys[entries["track"]]
        owners.append(keys[owner])
        parts.append(entries)
        low = high
    return Profiles.of(np.concatenate(owners), np.concatenate(parts))


_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))


def ids_in(file: str | None) -> list[str]:
    """Read the ids of listeners who are left out.

    Args:
        file: one id a line; None for nobody.

    Returns:
        The ids as texts, without spaces around them and empty lines.

    Raises:
        InputError: the file cannot be read.
    """
    if file is None:
        return []
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"datamodule.policies.without={file} cannot be read ({error}); give a file with an id of a listener in "
            "each line"
        ) from None
    return [line.strip() for line in lines if line.strip()]
