"""What is measured of an arm, in a world and in the real log of 2023 alike.

V sessions, E plays of a track, N tracks, U listeners.
"""

import json
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from experiments.studying import data_folder
from segue.simulation.policies import Policy
from segue.simulation.traffic import Plays, Task, play
from segue.simulation.world import World

Array = np.ndarray[Any, np.dtype[Any]]
TOGETHER = 4000
"""Sessions that are simulated together."""


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """The sessions of an arm.

    Args:
        users: row of the listener of each session.
        lengths: number of tracks of each session.
        tracks: row of each track, session after session.
        shares: share played of each track, in [0, 1].
        artist_of: row of the artist of every track of the catalogue.
        interests: rows of the interests of every listener.
    """

    users: Array
    lengths: Array
    tracks: Array
    shares: Array
    artist_of: Array
    interests: Array

    @property
    def session(self) -> Array:
        """Number of the session of each play."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def first(self) -> Array:
        """Number of the first play of each session."""
        return np.asarray(self.lengths.cumsum() - self.lengths)


def simulate(world: World, policy: Policy, *, sessions: int, seed: int) -> Sessions:
    """Play a recommender to the listeners of a world, each listener equally often."""
    users = np.arange(sessions) % len(world.listeners)
    parts: list[Plays] = []
    for number, part in enumerate(np.array_split(users, -(-sessions // TOGETHER))):
        task = Task(arm=0, users=part, num_visits=np.ones_like(part), waves=range(1), seed=seed, key=(number,))
        parts += play(world, policy, [task], keep_events=True)
    return sessions_of(world, Plays.join(parts))


def sessions_of(world: World, plays: Plays) -> Sessions:
    """The sessions of simulated plays."""
    return Sessions(
        users=plays.users,
        lengths=plays.lengths,
        tracks=plays.tracks.astype(np.int64),
        shares=plays.shares / 100,
        artist_of=world.catalog.artist_of,
        interests=world.listeners.interests,
    )


def real_sessions() -> dict[str, Sessions]:
    """The sessions of each arm of the real log: C is contextual, T1 a student's recommender."""
    folder = data_folder("botify")
    tracks = pd.read_json(folder / "tracks.json", lines=True).set_index("track").sort_index()
    users = pd.read_json(folder / "users.json", lines=True).set_index("user").sort_index()
    interests = np.array(users["interests"].tolist())
    lines = map(json.loads, (folder / "logs" / "replica-1" / "data.json").open(encoding="utf-8"))
    by_session: dict[str, list[list[dict[str, Any]]]] = {}
    for _, own in groupby(sorted(lines, key=lambda line: (line["user"], line["timestamp"])), lambda line: line["user"]):
        events: list[dict[str, Any]] = []
        for event in own:
            events.append(event)
            if event["message"] == "last":
                by_session.setdefault(next(iter(event["experiments"].values())), []).append(events)
                events = []
    track_ids, user_ids = tracks.index.to_numpy(), users.index.to_numpy()
    return {
        arm: Sessions(
            users=np.searchsorted(user_ids, [events[0]["user"] for events in sessions]),
            lengths=np.array([len(events) for events in sessions]),
            tracks=np.searchsorted(track_ids, [event["track"] for events in sessions for event in events]),
            shares=np.array([float(event["time"]) for events in sessions for event in events]),
            artist_of=np.asarray(pd.factorize(tracks["artist"])[0]),
            interests=np.searchsorted(track_ids, interests),
        )
        for arm, sessions in sorted(by_session.items())
    }


def _previous(session: Array, key: Array) -> Array:
    """How often each play's key occurred before in its session."""
    return pd.DataFrame({"session": session, "key": key}).groupby(["session", "key"]).cumcount().to_numpy()


def measure(own: Sessions) -> dict[str, float]:
    """The numbers that are compared; times and tracks are means over listeners.

    `p` is the share divided by the artist discount, of the first play of each track in a session: the listener's
    formula without what the session did to it. `other` are tracks by other artists than the first track's.
    """
    session, artists = own.session, own.artist_of[own.tracks]
    later = np.ones(len(session), bool)
    later[own.first] = False
    num_artist, num_track = _previous(session, artists), _previous(session, own.tracks)
    p = own.shares / 0.8**num_artist
    is_same = artists == artists[own.first][session]
    chosen = later & (num_track == 0)
    time = np.bincount(session, own.shares)
    by_user = pd.DataFrame({"user": own.users, "time": time, "tracks": own.lengths}).groupby("user").mean()
    interests, firsts = own.interests[own.users], own.tracks[own.first]
    quartiles = np.quantile(own.lengths, [0.25, 0.5, 0.75, 0.95])
    return {
        "time": float(by_user["time"].mean()),
        "tracks": float(by_user["tracks"].mean()),
        "half width": float(1.96 * by_user["time"].std() / len(by_user) ** 0.5),
        "sessions": len(own.lengths),
        **_polarised("other", p[chosen & ~is_same]),
        **_polarised("same", p[chosen & is_same]),
        **{f"length {q}": float(value) for q, value in zip(("25", "50", "75", "95"), quartiles, strict=True)},
        "repeats": float((num_track[later] > 0).mean()),
        "first by artist": float((own.artist_of[interests] == own.artist_of[firsts][:, None]).any(1).mean()),
        "first is interest": float((interests == firsts[:, None]).any(1).mean()),
    }


def _polarised(name: str, p: Array) -> dict[str, float]:
    if not len(p):
        return {}
    return {
        f"{name} p": float(p.mean()),
        f"{name} p<.05": float((p < 0.05).mean()),
        f"{name} p>.95": float((p > 0.95).mean()),
    }
