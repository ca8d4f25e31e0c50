"""How many queries of a session does a thread answer, with an encoder of the order and without?

    python experiments/order/queries.py     a minute; writes queries.md

By processor time, in turns, the best of some rounds; the vectors are random and as wide as those of `model=convex`.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, sized
from segue.models.mixture import side_by_side
from segue.models.order import Encoder
from segue.picking.session_query import SessionQuery
from segue.picking.session_search import SessionSearch
from segue.reports.markdown import table
from segue.runs.session_vectors import SessionVectors

STUDY = Study(__file__, __doc__)
Kind = Literal["gru", "ligr"] | None
KINDS: dict[str, list[Kind]] = {
    "weighted sum": [None],
    "gru4rec": ["gru"],
    "sasrec": ["ligr"],
    "weighted sum + gru4rec": [None, "gru"],
    "weighted sum + gru4rec + sasrec": [None, "gru", "ligr"],
}
"""Models, of which several are a mixture: the sum of their scores."""
WIDTH, DIM, MAX_LENGTH, K, NUM_LISTS = 128, 128, 20, 50, 4
NUM_TRACKS, ROUNDS, CALLS = sized((50_000, 40, 25), (500, 1, 2))
CASES = [(1, 5), (1, MAX_LENGTH), (16, 5), (16, MAX_LENGTH)]
"""Sessions that are answered at once, and their tracks."""


def vectors_of(kind: Kind, rng: np.random.Generator) -> SessionVectors:
    """Random vectors of tracks, and the numbers of a context."""
    queries, items = rng.standard_normal((2, NUM_TRACKS, 2 * WIDTH + 1)).astype(np.float32) / WIDTH**0.5
    return SessionVectors(
        queries=queries,
        items=items,
        parts=("track", "artist"),
        ends=np.array([WIDTH, 2 * WIDTH]),
        lengths=np.full(2, 0.7, np.float32),
        shares=np.full(2, 0.5, np.float32),
        powers=np.full(2, 0.1, np.float32),
        age_weights=np.full((2, MAX_LENGTH), 0.5, np.float32),
        skipped=1.0,
        boosts=np.empty(0, np.float32),
        artist_boosts=np.empty(0, np.float32),
        context="session",
        orders=() if kind is None else (Encoder(2 * WIDTH, MAX_LENGTH, kind=kind, dim=DIM).part(),),
    )


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    began = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - began) / CALLS


def main() -> None:
    """Measure, and write the table."""
    STUDY.parse()
    rng = np.random.default_rng(0)
    lists = rng.integers(0, NUM_TRACKS, (NUM_TRACKS, K)).astype(np.int32)
    calls: dict[tuple[str, int, int], list[Callable[[], object]]] = {}
    for name, kinds in KINDS.items():
        models = {str(nth): vectors_of(kind, rng) for nth, kind in enumerate(kinds)}
        vectors = side_by_side(models, dict.fromkeys(models, 1.0)) if len(models) > 1 else models["0"]
        search = SessionSearch(vectors, lists, num_lists=NUM_LISTS, may_repeat=False, artist_of=np.arange(NUM_TRACKS))
        for sessions, tracks in CASES:
            rows, shares = rng.integers(0, NUM_TRACKS, (sessions, tracks)), rng.random((sessions, tracks), np.float32)
            query, best = SessionQuery(vectors).of, search.best
            calls[name, sessions, tracks] = [partial(query, rows, shares), partial(best, rows, shares, K)]
    least_s = {case: [np.inf, np.inf] for case in calls}
    for _ in range(ROUNDS):
        for case, both in calls.items():
            least_s[case] = [min(least, seconds(call)) for least, call in zip(least_s[case], both, strict=True)]
    lines = [
        [name, str(tracks), str(sessions), *(f"{sessions / least:,.0f}" for least in least_s[name, sessions, tracks])]
        for name, sessions, tracks in calls
    ]
    head = ["model", "tracks of a session", "sessions at once", "queries per second", "with the search per second"]
    STUDY.write_table("queries.md", table(head, lines, "lrrrr"))


if __name__ == "__main__":
    STUDY.run(main)
