"""Why the last answer: the weights of the tracks of the session, and the parts of the score of what was recommended.

n tracks of a session, P parts of a vector, V its width, C candidates, F features.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from segue.catalog import Id
from segue.picking.counted_scores import CountedScores
from segue.picking.listener_scores import FEATURES, OF_TRACK, Pasts, features_of
from segue.picking.session_query import Explained, SessionQuery
from segue.runs.counted_part import CountedPart
from segue.runs.profiles import DAY_MS, LOVED
from segue.runs.session_vectors import SessionVectors
from segue.serving.recommender import Past, Recommender
from segue.serving.release import Release
from segue.serving.session_memory import Noted, Played


def explain(
    recommender: Recommender, arm: str, user: Id, played: Played, answer: Noted, past: Past | None = None
) -> dict[str, Any]:
    """Explain the last answer to a user, whose arm has `context=session` or `context=listener`.

    Its size is bounded: the tracks of the session that count, at most 1000.

    Args:
        recommender: answers from the release that answered.
        arm: name of the arm of the user.
        user: id.
        played: what the session had played when it was answered.
        answer: the answer.
        past: what the listener had heard when it was answered; None if that was no part of the query.

    Returns:
        As JSON: arm and settings, the recommended track, its rank among the candidates, its score by parts, what the
        track has by itself (`rest`), with a counted part the share of the track among those that followed, or that of
        new tracks, and what it adds, where it or its artist was heard what that adds (`boost`), with a past what that
        adds (`listener`), and the tracks of the session, newest first, with their weights and products. A model of the
        order has `order` too: what the order adds to the score, and how much less it would add without each track. If
        the arm explores, also whether the track is new.
    """
    release = recommender.release
    given, vectors, row = release.arms[arm], release.vectors[arm], release.row_of(answer.track)
    sessions = recommender.newest_first([played])
    rows, shares = sessions[0][0], sessions[1][0]
    search = recommender.searches[arm]
    known, most = recommender.past_of(search, sessions[0], [past]), vectors.max_length
    best = search.best(*sessions, len(release), known, familiar=1.0)[0].tolist()
    one, listener = SessionQuery(vectors).explain(rows, shares, row, release.artist_of), None
    if known is not None and vectors.listener is not None:
        listener = _of_listener(release, vectors.listener, row, known)
    return {
        "user": user,
        "arm": arm,
        **{name: getattr(given, name) for name in ("recommender", "context", "num_lists", "pick", "artist_gap")},
        "release": release.version,
        "recommended": release.track(row),
        "is_fallback": answer.is_fallback,
        "propensity": answer.propensity,
        **({name: getattr(given, name) for name in ("exploration", "exploration_plays")} if given.exploration else {}),
        **({"is_new": bool((release.new[arm] == row).any())} if given.exploration else {}),
        "candidates": sum(one >= 0 for one in best),
        "rank": best.index(row) + 1 if row in best else None,
        "score": round(one.score + (0.0 if listener is None else listener["added"]), 6),
        "parts": parts_of(vectors.parts, (one.weights * one.products).sum(1).tolist()),
        "rest": round(one.rest, 6),
        **({"boost": round(one.boost, 6)} if one.boost else {}),
        **({} if not vectors.orders else {"order": round(one.order, 6)}),
        **({} if vectors.counted is None else {"counted": _of_counts(one, vectors.counted, row)}),
        **({"listener": listener} if given.context == "listener" else {}),
        "is_heard": bool((rows == row).any()),
        "session": [
            {
                "track": release.id_of(heard) if heard >= 0 else key if key >= 0 else None,
                "time": None if np.isnan(share) else round(float(share), 6),
                "weights": parts_of(vectors.parts, one.weights[:, age].tolist()),
                "products": parts_of(vectors.parts, one.products[:, age].tolist()),
                **({} if not vectors.orders else {"order": round(float(one.by_track[age]), 6)}),
            }
            for age, (key, heard, share) in enumerate(
                zip(played.tracks[::-1][:most], rows[:most].tolist(), shares[:most].tolist(), strict=True)
            )
        ],
    }


def profile_of(release: Release, profile: np.ndarray, now_ms: int) -> list[dict[str, Any]]:
    """The tracks of a profile as JSON, those that were played last first.

    Args:
        release: knows the tracks.
        profile: the entries, with the keys of tracks.
        now_ms: the time.
    """
    return [
        {
            **_named(release, int(entry["track"])),
            "plays": round(float(entry["plays"]), 2),
            "time": round(float(entry["shares"] / entry["plays"]), 3),
            "last_days": round(max(now_ms - int(entry["last_ms"]), 0) / DAY_MS, 3),
            "is_known": bool(entry["best"] >= LOVED),
        }
        for entry in profile[np.argsort(-profile["last_ms"], kind="stable")]
    ]


def _named(release: Release, key: int) -> dict[str, Any]:
    """The record of a track; of one that the release does not know its id, where that is a number."""
    if (row := release.row_of(key)) >= 0:
        return release.track(row)
    return {"artist": None, "title": "", "track": key if key >= 0 else None}


def _of_listener(release: Release, weights: Float32[np.ndarray, "F"], row: int, past: Pasts) -> dict[str, Any]:
    """What the listener's own past adds to the score of a track, as JSON.

    `plays`, as of the last one, and `last_days` are of the track, or of its artist where `is_heard` is false.
    """
    features, artists = features_of(past, release.artist_of)
    of_track = (artists[0] >= 0) & (past.rows[0] == row)
    of_artist = artists[0] == release.artist_of[row]
    of = of_track if (is_heard := bool(of_track.any())) else of_artist
    found = features[0, of.argmax()] * of.any()
    if not is_heard:
        found[: len(OF_TRACK)] = 0
    parts = {name: value for name, value in zip(FEATURES, (weights * found).tolist(), strict=True) if value}
    own = past.entries[0, of]
    plays = float(own["plays"].sum())
    last_days = max(int(past.now_ms[0] - own["last_ms"].max()), 0) / DAY_MS if of.any() else None
    added = sum(parts.values())
    what = "" if is_heard else "its artist was "
    since = "never heard" if last_days is None else f"{what}heard {_times(plays)}, last {_ago(last_days)}"
    return {
        "is_heard": is_heard,
        "plays": round(plays, 2),
        "last_days": None if last_days is None else round(last_days, 3),
        "added": round(added, 6),
        "parts": {name: round(parts[name], 6) for name in sorted(parts, key=lambda name: -abs(parts[name]))},
        "sentence": f"{since}, {added:+.2f}",
    }


def _times(plays: float) -> str:
    return "once" if plays < 1.5 else f"{plays:.0f} times"


def _ago(days: float) -> str:
    num, unit = (days, "day") if days >= 1 else (24 * days, "hour")
    return f"less than an {unit} ago" if num < 1 else f"{num:.0f} {unit}{'s' * (round(num) != 1)} ago"


def _of_counts(one: Explained, part: CountedPart, row: int) -> dict[str, Any]:
    """What was counted, as JSON. The counts are weighted and of two rules: a share says what they are worth."""
    what = f"{one.share:.2%} of what followed" if one.share else "not among what most often followed"
    sentence = f"{what} the tracks of the session in training, {one.counted:+.2f}"
    if part.uncounted and part.is_uncounted[row]:
        sentence = f"nothing was counted of this track; it gets what others get in the mean, {one.counted:+.2f}"
    return {"share": round(one.share, 6), "added": round(one.counted, 6), "sentence": sentence}


def with_counts(
    vectors: SessionVectors,
    row: int,
    scores: Float[np.ndarray, "C"],
    candidates: Int64[np.ndarray, "C"],
) -> Float[np.ndarray, "C"]:
    """Add the counted part to scores after one track.

    Args:
        vectors: of all tracks.
        row: row of the track.
        scores: of the head.
        candidates: rows of the candidates.
    """
    if vectors.counted is None:
        return scores
    counts, after = CountedScores(vectors.counted), scores[None].copy()
    found = counts.of(np.array([[row]]), np.array([[np.nan]], np.float32), candidates[None])
    counts.add(after, found)
    return np.asarray(after[0])


def parts_of(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Numbers of each part by its name, rounded for people.

    Args:
        names: of the parts.
        values: one for each.
    """
    return {name: round(float(value), 6) for name, value in zip(names, values, strict=True)}
