"""Why the last answer: the weights of the tracks of the session, and the parts of the score of what was recommended.

n tracks of a session, P parts of a vector, V its width, C candidates.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from segue.catalog import Id
from segue.picking.counted_scores import CountedScores
from segue.picking.session_query import CountedScore, SessionQuery
from segue.runs.session_vectors import SessionVectors
from segue.serving.recommender import Recommender
from segue.serving.session_memory import Noted, Played


def explain(recommender: Recommender, arm: str, user: Id, played: Played, answer: Noted) -> dict[str, Any]:
    """Explain the last answer to a user, whose arm has `context=session`.

    Its size is bounded: the tracks of the session that count, at most 1000.

    Args:
        recommender: answers from the release that answered.
        arm: name of the arm of the user.
        user: id.
        played: what the session had played when it was answered.
        answer: the answer.

    Returns:
        As JSON: arm and settings, the recommended track, its rank among the candidates, its score by parts, with a
        counted part the share of the track among those that followed and what it adds, and the tracks of the session,
        newest first, with their weights and products. A model of the order has `order` too: what the order adds to the
        score, and how much less it would add without each track. If the arm explores, also whether the track is new;
        one that is not among the candidates, without a rank, was found by exploration.
    """
    release = recommender.release
    given, vectors, row = release.arms[arm], release.vectors[arm], release.row_of(answer.track)
    sessions = recommender.newest_first([played])
    rows, shares = sessions[0][0], sessions[1][0]
    best = recommender.searches[arm].best(*sessions, given.num_lists * release.lists[arm].shape[1])[0].tolist()
    query = SessionQuery(vectors)
    weights, products, rest = query.products(rows, shares, row)
    counted, (by_order, of_order) = query.counted(rows, shares, row), query.order(rows, shares, row)
    added, most = weights * products, vectors.max_length
    return {
        "user": user,
        "arm": arm,
        **{name: getattr(given, name) for name in ("recommender", "context", "num_lists", "pick", "artist_gap")},
        "release": release.version,
        "recommended": release.track(row),
        "is_fallback": answer.is_fallback,
        "propensity": answer.propensity,
        **given.explores(),
        **({"is_new": bool((release.new[arm] == row).any())} if given.exploration else {}),
        "candidates": sum(one >= 0 for one in best),
        "rank": best.index(row) + 1 if row in best else None,
        "score": round(float(added.sum()) + rest, 6),
        "parts": parts_of(vectors.parts, added.sum(1).tolist()),
        "rest": round(rest - counted.added - float(by_order), 6),
        **({} if vectors.order is None else {"order": round(float(by_order), 6)}),
        **(
            {}
            if vectors.counted is None
            else {"counted": {name: round(one, 6) for name, one in counted._asdict().items()}}
        ),
        "is_heard": bool((rows == row).any()),
        "session": [
            {
                "track": release.id_of(heard) if heard >= 0 else key if key >= 0 else None,
                "time": None if np.isnan(share) else round(float(share), 6),
                "weights": parts_of(vectors.parts, weights[:, age].tolist()),
                "products": parts_of(vectors.parts, products[:, age].tolist()),
                **({} if vectors.order is None else {"order": round(float(of_order[age]), 6)}),
            }
            for age, (key, heard, share) in enumerate(
                zip(played.tracks[::-1][:most], rows[:most].tolist(), shares[:most].tolist(), strict=True)
            )
        ],
    }


def track_products(
    vectors: SessionVectors, row: int, item: int
) -> tuple[Float32[np.ndarray, "P 1"], Float32[np.ndarray, "P 1"], float]:
    """Explain a score after one track, whose share is unknown; see `SessionQuery.products`.

    Args:
        vectors: of all tracks.
        row: row of the track.
        item: row of the candidate.
    """
    return SessionQuery(vectors).products(np.array([row]), np.array([np.nan], np.float32), item)


def counted_after(vectors: SessionVectors, row: int, item: int) -> CountedScore:
    """The counted part of a score after one track.

    Args:
        vectors: of all tracks.
        row: row of the track.
        item: row of the candidate.
    """
    return SessionQuery(vectors).counted(np.array([row]), np.array([np.nan], np.float32), item)


def with_counts(
    vectors: SessionVectors,
    row: int,
    query: Float64[np.ndarray, "V"],
    scores: Float[np.ndarray, "C"],
    candidates: Int64[np.ndarray, "C"],
) -> Float[np.ndarray, "C"]:
    """Add the counted part to scores after one track.

    Args:
        vectors: of all tracks.
        row: row of the track.
        query: its query vector, which may be another than that of the run.
        scores: of the head, for this query.
        candidates: rows of the candidates.
    """
    if vectors.counted is None:
        return scores
    counts, after = CountedScores(vectors.counted), scores[None].copy()
    found = counts.of(np.array([[row]]), np.array([[np.nan]], np.float32), candidates[None])
    counts.add(after, found, SessionQuery(vectors).squared_lengths(query[None]))
    return np.asarray(after[0])


def parts_of(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Numbers of each part by its name, rounded for people.

    Args:
        names: of the parts.
        values: one for each.
    """
    return {name: round(float(value), 6) for name, value in zip(names, values, strict=True)}
