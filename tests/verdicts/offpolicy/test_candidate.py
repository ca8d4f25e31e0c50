"""The recommender that is estimated from a log."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segue.errors import InputError
from segue.verdicts.offpolicy.behaviours import Candidate, candidate_of
from tests.conftest import make_catalog, make_vectors


def candidate(given: Any) -> Candidate:
    return candidate_of(given, locate=lambda name: Path("found", name))


def test_a_candidate_is_named_as_the_arms_of_the_simulator() -> None:
    assert candidate("popular") == Candidate(name="popular", pick="uniform", artist_gap=0, file=None)
    assert candidate("run:1234").file == Path("found/run:1234")
    assert candidate("1234abcd").file == Path("found/run:1234abcd")
    given = {"recommender": "a/recommendations.jsonl", "pick": "ranked", "artist_gap": 3}
    file = Path("a/recommendations.jsonl")
    expected = Candidate(name="a/recommendations.jsonl", pick="ranked", artist_gap=3, file=file)
    assert candidate(given) == expected
    assert candidate(given | {"exploration": 0.1}) == replace(expected, exploration=0.1)
    explores = {"exploration": 0.1, "exploration_plays": 4}
    assert candidate(given | explores) == replace(expected, exploration=0.1, exploration_plays=4)


def test_a_candidate_answers_as_its_run_was_trained(tmp_path: Path) -> None:
    name = str(tmp_path / "recommendations.jsonl")
    make_vectors(3).write(tmp_path / "vectors.npz", make_catalog([0, 1, 2]))
    assert candidate(name).context == candidate({"recommender": name, "context": "session"}).context == "session"
    assert candidate({"recommender": name, "context": "last"}).context == "last"
    for own, message in (
        ({"context": "all"}, "candidate: context must be one of last, session, listener, last_ten"),
        ({"context": "listener"}, "candidate: context=listener, and the run of .* was trained with context=session"),
        ({"familiar": "all"}, "candidate: familiar must be a number of at least 0 and at most 1 or learned, got 'all'"),
        ({"familiar": 0.5}, "candidate: familiar=0.5 needs context=listener, which knows the listener"),
        ({"num_lists": 21}, "candidate: num_lists must be a whole number of at least 1 and at most 20, got 21"),
    ):
        with pytest.raises(InputError, match=message):
            candidate({"recommender": name, **own})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "candidate must name a recommender, got 7"),
        ("oracle", "candidate: 'oracle' is not a recommender; choose one of popular, random, sticky_artist"),
        ("http://localhost:5001", "candidate: 'http://localhost:5001' is not a recommender"),
        ({"recommender": "popular", "pick": "ranked"}, "candidate: pick applies to lists, and popular has none"),
        ({"recommender": "run:1", "depth": 3}, "candidate: 'depth' is not a setting of a candidate; its settings"),
        ({"recommender": "run:1", "pick": "best"}, "candidate: pick must be one of uniform, ranked, weighted"),
        ({"recommender": "run:1", "exploration": 0.6}, "candidate: exploration must be a number of at least 0 and"),
        ({"recommender": "popular", "exploration": 0.1}, "candidate: exploration applies to lists, and popular"),
        ({"recommender": "run:1", "artist_gap": -1}, "candidate: artist_gap must be a whole number"),
    ],
)
def test_what_is_no_candidate_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        candidate(given)
