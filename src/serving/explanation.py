"""Why the last answer: the score of what was recommended by its parts, and what each track of the session adds.

F features.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from segue.catalog import Id
from segue.picking.listener_scores import FEATURES, OF_TRACK, Pasts, features_of
from segue.runs.counted_part import CountedPart
from segue.runs.profiles import DAY_MS, LOVED
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
        As JSON: arm and settings, the recommended track, its rank among the candidates, and its score by `parts`, whose
        sum it is: those of `SessionScores.explain`, and the features of the listener's past. With a counted part the
        share of the track among those that followed, or that of new tracks, with a past whether and when the track was
        heard, and the tracks of the session, newest first, with what each adds to the parts. If the arm explores, also
        whether the track is new.
    """
    release = recommender.release
    given, vectors, row = release.arms[arm], release.vectors[arm], release.row_of(answer.track)
    sessions = recommender.newest_first([played])
    rows, shares = sessions[0][0], sessions[1][0]
    search = recommender.searches[arm]
    known = recommender.past_of(search, sessions[0], [past])
    best = search.best(*sessions, len(release), known, familiar=1.0)[0].tolist()
    by_track = search.scores.explain(rows, shares, row)
    parts, more = {name: float(part[0]) for name, part in by_track.items()}, dict[str, Any]()
    if search.scores.counted is not None and vectors.counted is not None:
        share = float(search.scores.counted.of(*sessions, np.array([[row]]))[0, 0])
        more["counted"] = _of_counts(share, parts.get("counted", 0.0), vectors.counted, row)
    if given.context == "listener":
        more["listener"] = None
        if known is not None and vectors.listener is not None:
            of_listener, more["listener"] = _of_listener(release, vectors.listener, row, known)
            parts |= of_listener
    return {
        "user": user,
        "arm": arm,
        **{name: getattr(given, name) for name in ("recommender", "context", "num_lists", "pick", "artist_gap")},
        "release": release.version,
        "recommended": release.track(row),
        "is_fallback": answer.is_fallback,
        "propensity": answer.propensity,
        **({"exploration": given.exploration} if given.exploration else {}),
        "candidates": sum(one >= 0 for one in best),
        "rank": best.index(row) + 1 if row in best else None,
        "score": round(sum(parts.values()), 6),
        "parts": rounded(parts),
        **more,
        "is_heard": bool((rows == row).any()),
        "session": [
            {
                "track": release.id_of(heard) if heard >= 0 else key if key >= 0 else None,
                "time": None if np.isnan(share) else round(float(share), 6),
                "parts": rounded({name: float(part[0] - part[age]) for name, part in by_track.items()}),
            }
            for age, (key, heard, share) in enumerate(
                zip(played.tracks[::-1], rows.tolist(), shares.tolist(), strict=True), start=1
            )
            if age <= vectors.num_newest
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


def _of_listener(
    release: Release, weights: Float32[np.ndarray, "F"], row: int, past: Pasts
) -> tuple[dict[str, float], dict[str, Any]]:
    """What the features of the listener's own past add to the score of a track, the largest first; and that as JSON.

    `plays`, as of the last one, and `last_days` are of the track, or of its artist where `is_heard` is false.
    """
    features, own = features_of(past, release.artist_of), past.entries[0, past.rows[0] >= 0]
    of = features.track == row
    if not (is_heard := bool(of.any())):
        of = features.artist == release.artist_of[row]
    found = features.values[of][:1].sum(0)
    if not is_heard:
        found[OF_TRACK] = 0
    parts = {name: value for name, value in zip(FEATURES, (weights * found).tolist(), strict=True) if value}
    plays = float(own["plays"][of].sum())
    last_days = max(int(past.now_ms[0] - own["last_ms"][of].max()), 0) / DAY_MS if of.any() else None
    added = sum(parts.values())
    what = "" if is_heard else "its artist was "
    since = "never heard" if last_days is None else f"{what}heard {_times(plays)}, last {_ago(last_days)}"
    return dict(sorted(parts.items(), key=lambda part: -abs(part[1]))), {
        "is_heard": is_heard,
        "plays": round(plays, 2),
        "last_days": None if last_days is None else round(last_days, 3),
        "added": round(added, 6),
        "sentence": f"{since}, {added:+.2f}",
    }


def _times(plays: float) -> str:
    return "once" if plays < 1.5 else f"{plays:.0f} times"


def _ago(days: float) -> str:
    num, unit = (days, "day") if days >= 1 else (24 * days, "hour")
    return f"less than an {unit} ago" if num < 1 else f"{num:.0f} {unit}{'s' * (round(num) != 1)} ago"


def _of_counts(share: float, added: float, part: CountedPart, row: int) -> dict[str, Any]:
    """What was counted, as JSON. The counts are weighted and of two rules: a share says what they are worth."""
    what = f"{share:.2%} of what followed" if share else "not among what most often followed"
    sentence = f"{what} the tracks of the session in training, {added:+.2f}"
    if part.uncounted and part.is_uncounted[row]:
        sentence = f"nothing was counted of this track; it gets what others get in the mean, {added:+.2f}"
    return {"share": round(share, 6), "added": round(added, 6), "sentence": sentence}


def rounded(parts: Mapping[str, float]) -> dict[str, float]:
    """Parts of a score, rounded for people.

    Args:
        parts: what each adds, by its name.
    """
    return {name: round(value, 6) for name, value in parts.items()}
