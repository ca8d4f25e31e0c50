"""A walk: what an arm would play next, with the session so far and its own policy, and why."""

import secrets
from typing import Any

import numpy as np

from segue.assignment import GUESTS
from segue.catalog import id_problem, key_of
from segue.errors import InputError
from segue.picking.arm import Arm
from segue.picking.places import PICKS
from segue.runs.profiles import LOVED
from segue.serving.explanation import explain
from segue.serving.ids import as_json
from segue.serving.recommender import Past, Recommender
from segue.serving.room.release_view import ReleaseView
from segue.serving.session_memory import Noted, Played

_NOTHING = np.empty(0, np.int64)
_MAX_TRACKS = 128  # of a session that the room sends


def new_listener(recommender: Recommender, arm: str) -> int:
    """An id of a guest who is in an arm, and who has not been there before.

    Args:
        recommender: which decides the arm of a user.
        arm: name of the arm.
    """
    while True:
        user = GUESTS.start + secrets.randbelow(len(GUESTS))
        if recommender.arm_of(user) == arm:
            return user


def checked_session(view: ReleaseView, tracks: Any, shares: Any) -> Played:
    """A session that the page sent.

    Args:
        view: which knows the tracks.
        tracks: ids, the last track last.
        shares: share of each that was played, in [0, 1].

    Raises:
        InputError: it is empty or too long, a track is unknown, or a share is out of range.
    """
    is_right = (
        isinstance(tracks, list)
        and isinstance(shares, list)
        and 0 < len(tracks) == len(shares) <= _MAX_TRACKS
        and not any(map(id_problem, tracks))
        and all(type(share) in (int, float) and 0 <= share <= 1 for share in shares)
    )
    if not is_right:
        raise InputError(f"a walk has 1 to {_MAX_TRACKS} tracks, with a share from 0 to 1 for each; start a new walk")
    if unknown := [track for track in tracks if view.row_of(track) < 0]:
        raise InputError(f"track {as_json(unknown[0])} is not in this catalogue; start a new walk")
    return Played([*map(key_of, tracks)], [float(share) for share in shares])


def step(
    view: ReleaseView,
    recommender: Recommender,
    arm: str,
    user: int,
    played: Played,
    past: Past | None = None,
    familiar: float | None = None,
) -> dict[str, Any]:
    """The next track of a walk, drawn as `/next` would draw it, and why. Nothing of it is logged.

    Args:
        view: what the room knows of the release.
        recommender: answers from the release.
        arm: name of the arm.
        user: id of the listener, a whole number.
        played: the session so far.
        past: what the listener whose walk it is has heard in all sessions; None for somebody new.
        familiar: how much of what is played they may know; None for what the arm has.
    """
    last = view.release.row_of(played.tracks[-1])
    following, fallback, propensity = recommender.follow(arm, user, last, played, past, familiar)
    track = int(view.release.keys[following])
    return why(view, recommender, arm, played, track, propensity, fallback, past, familiar)


def why(
    view: ReleaseView,
    recommender: Recommender,
    arm: str,
    played: Played,
    track: int,
    propensity: float | None = None,
    fallback: str | None = None,
    past: Past | None = None,
    familiar: float | None = None,
) -> dict[str, Any]:
    """Why a track followed a session, as JSON.

    Args:
        view: what the room knows of the release.
        recommender: answers from the release.
        arm: name of the arm.
        played: the session before the track.
        track: key of the track (`catalog.key_of`).
        propensity: probability with which it was picked; None where it is not known.
        fallback: the source of a fallback, if it was one and that is known.
        past: as for `step`.
        familiar: as for `step`.
    """
    release = view.release
    row, last = release.row_of(track), release.row_of(played.tracks[-1])
    found = view.record(row) | {"propensity": propensity, "fallback": fallback, "parts": view.parts(arm, last, row)}
    found |= {
        "parts_are": "cosines",
        "session": [],
        "rank": None,
        "candidates": None,
        "own_past": None,
        "counted": None,
    }
    known = _NOTHING if past is None else past.entries["track"][past.entries["best"] >= LOVED]
    found["is_known"] = bool((known == track).any())
    if release.arms[arm].is_of_session:
        noted = Noted(track, propensity or 0.0, fallback is not None, release.version)
        whole = explain(recommender, arm, 0, played, noted, past)
        heaviest = sorted(whole["session"], key=_pull, reverse=True)[:3]
        found |= {name: whole[name] for name in ("rank", "candidates", "score", "parts")} | {"parts_are": "sums"}
        for name, key in (("counted", "counted"), ("listener", "own_past")):
            found[key] = whole[name]["sentence"] if whole.get(name) else None
        found["session"] = [
            {**view.record(heard), "pull": round(_pull(one), 4)}
            for one in heaviest
            if (heard := view.row_of(one["track"])) >= 0
        ]
    elif arm in release.lists:
        rows = release.lists[arm][last].tolist()
        found["rank"] = rows.index(row) + 1 if row in rows else None
        found["candidates"] = sum(one >= 0 for one in rows)
    given = release.arms[arm] if familiar is None else release.arms[arm].with_familiar(familiar)
    return found | {"sentence": _sentence(view, given, played, found)}


def _pull(one: dict[str, Any]) -> float:
    """What a track of the session adds to the score."""
    return float(sum(one["parts"].values()))


def _sentence(view: ReleaseView, given: Arm, played: Played, found: dict[str, Any]) -> str:
    last = view.release.track(view.release.row_of(played.tracks[-1]))
    after = f"“{last['title'] or last['track']}”"
    if given.is_own and not found["fallback"]:
        return f"By the rule of {given.policy}."
    if found["fallback"] or (given.has_lists and found["rank"] is None):
        sources = {"artist": f"another track by {last['artist']}", "popular": "a popular track", "random": "any track"}
        source = sources.get(found["fallback"] or "", "another track")
        return f"The list after {after} had no track left that may be played, therefore a fallback: {source}."
    if not given.has_lists:
        names = {
            "random": f"Any of {len(view):,} tracks",
            "popular": "One of the most played tracks",
            "sticky_artist": f"Another track by {last['artist'] or 'the same artist'}",
        }
        return f"{names[given.policy]}, each with the same probability."
    place = f"Number {found['rank']} of {found['candidates']}"
    head = f"{place} in the list after {after}"
    if given.is_of_session:
        query = "this track" if len(played.tracks) == 1 else f"the session of {len(played.tracks)} tracks"
        head = f"{place} candidates for {query}"
    if given.pick == "ranked" and found["rank"] > 1:
        gap = given.artist_gap
        of = "the artist of the last track" if gap == 1 else f"an artist of the last {gap} tracks"
        known = ", or are known" if given.familiar < 1 and not found["is_known"] else ""
        return f"{head}: those before it were heard{f', or are by {of}' if gap else ''}{known}."
    rule = str(PICKS[given.pick].__doc__)
    return f"{head}; {rule[0].lower()}{rule[1:]}"
