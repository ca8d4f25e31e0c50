"""Two sessions of one user at once: which events belong to which of them.

The simulator of botify in several processes plays one user in several sessions at the same time, and the lines of
these sessions alternate in the log. The lines themselves say which belong together: the recommendation of a line is
the track of the next line of its session. E events, n of which are of users with interleaved sessions.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64

from segue.catalog import changes

POLICIES = ("separate", "keep", "drop")
"""What happens to interleaved sessions: each gets its own events, they stay one session, or they are left out."""

Columns = dict[str, np.ndarray]
"""Events as arrays, sorted by user and time."""


def separate(
    events: Columns, begins: Bool[np.ndarray, "E"], *, policy: str, gap_ms: int | float | Float64[np.ndarray, "E"]
) -> tuple[Columns, Bool[np.ndarray, "e"], int]:
    """Apply a policy to sessions of one user that ran at the same time.

    An event continues the session whose last event recommended its track; of several the latest. An event whose track
    nobody recommended begins a session if the recommendation of the event before it is played later, because that
    event then belongs to another session; otherwise it continues that event, and its client ignored a recommendation.
    A user who ignores recommendations at least as often as a session is resumed in this way keeps the sessions that
    `begins` says, as does every user whose sessions follow one another, or whose log has no recommendations.

    Args:
        events: the events with the columns `user_id`, `timestamp`, `is_last`, `track` and `recommendation` (a
            row or a key, as `track` is; -1 where there is none), and any others.
        begins: whether each event begins a session, if no sessions were interleaved.
        policy: one of `POLICIES`.
        gap_ms: longest time between an event and the one before it in its session, in milliseconds; of all events, or
            of each.

    Returns:
        The events that are kept, in the order of their sessions; whether each of them begins a session; and the number
        of sessions that ran at the same time as another one of their user.
    """
    is_expecting = (events["recommendation"] != -1) & ~events["is_last"]
    is_other = ~begins[1:] & is_expecting[:-1] & (events["recommendation"][:-1] != events["track"][1:])
    if not is_other.any():  # as in almost every log
        return events, begins, 0
    nth_user = changes(events["user_id"]).cumsum() - 1
    chosen = np.flatnonzero(np.isin(nth_user, nth_user[1:][is_other]))
    part = {name: events[name][chosen] for name in ("timestamp", "track", "recommendation")}
    part |= {"user": nth_user[chosen], "begins": begins[chosen], "is_expecting": is_expecting[chosen]}
    part["gap_ms"] = np.broadcast_to(gap_ms, len(begins))[chosen]
    first = np.flatnonzero(begins)[begins.cumsum() - 1]
    first[chosen] = np.where((own := _first_of_chains(part)) < 0, first[chosen], chosen[own])

    order = np.argsort(first, kind="stable")
    start = np.flatnonzero(changes(first[order]))
    length = np.diff(start, append=len(order))
    first_event, latest = order[start], np.maximum.accumulate(order[start + length - 1])
    after = np.concatenate([[False], first_event[1:] < latest[:-1]])  # an earlier session still runs
    is_interleaved = after | np.concatenate([after[1:], [False]])
    num_sessions = int(is_interleaved.sum())
    if policy == "keep" or not num_sessions:
        return events, begins, num_sessions
    if policy == "drop":
        order = order[np.repeat(~is_interleaved, length)]
    return {name: column[order] for name, column in events.items()}, changes(first[order]), num_sessions


def _first_of_chains(part: Columns) -> Int64[np.ndarray, "n"]:
    """The first event of the session of each event; -1 for a user who rather ignores recommendations."""
    event, user = np.arange(len(part["user"])), part["user"]
    before = _recommended_by(part)
    before[(before >= 0) & (part["timestamp"] - part["timestamp"][before] > part["gap_ms"])] = -1
    is_continued = np.zeros(len(event), bool)
    is_continued[before[before >= 0]] = True
    joins = (before < 0) & ~part["begins"]
    joins[1:] &= ~is_continued[:-1]
    is_resumed = (before >= 0) & (before < event - 1)
    is_ignored = joins & np.roll(part["is_expecting"], 1)
    first = np.where(before >= 0, before, event - joins)
    while ((earlier := first[first]) != first).any():
        first = earlier
    is_obeying = np.bincount(user, is_resumed) > np.bincount(user, is_ignored)
    return np.asarray(np.where(is_obeying[user], first, -1))


def _recommended_by(part: Columns) -> Int64[np.ndarray, "n"]:
    """The event whose recommendation each event plays; -1 where there is none.

    For one user and one track, recommendations and plays are opening and closing brackets: each play takes the latest
    recommendation that no play has taken yet.
    """
    num, event = len(part["track"]), np.arange(len(part["track"]))
    asked = event[part["is_expecting"]]
    of = np.concatenate([event, asked])
    about = np.concatenate([part["track"], part["recommendation"][asked]])
    moment = np.concatenate([2 * event, 2 * asked + 1])  # an event plays before it recommends
    order = np.lexsort((moment, about, part["user"][of]))
    of, step = of[order], np.where(order < num, -1, 1)
    begins_group = changes(part["user"][of]) | changes(about[order])
    group = begins_group.cumsum() - 1
    height = step.cumsum()
    height -= (height - step)[begins_group][group]
    descent = group * (2 * len(of) + 1)  # a group lies below all earlier ones, therefore its minimum is its own
    depth = height - (np.minimum.accumulate(np.minimum(height, 0) - descent) + descent)
    level = np.where(step > 0, depth, np.where(begins_group, 0, np.roll(depth, 1)))
    kept = np.flatnonzero(level > 0)
    kept = kept[np.lexsort((kept, level[kept], group[kept]))]  # at one level, openings and closings alternate
    closing = np.flatnonzero(step[kept] < 0)
    before = np.full(num, -1)
    before[of[kept[closing]]] = of[kept[closing - 1]]
    return before
