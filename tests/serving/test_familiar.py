"""A service that limits how much of what it plays the listener knows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.errors import InputError
from segue.picking.arm import Arm
from segue.picking.listener_scores import FEATURES
from segue.runs.profiles import DAY_MS, entries_of_events
from segue.serving.recommender import Past, Recommender
from segue.serving.release import Release
from segue.serving.session_memory import Played
from tests.conftest import make_catalog, make_vectors
from tests.serving.conftest import START_MS, arm, lists_of, make_release


def released(folder: Path, **how: Any) -> Release:
    """Six tracks, each with a list of all others; a track that was heard before is the best."""
    weights = np.array([100.0 * (name == "heard") for name in FEATURES], np.float32)
    vectors = make_vectors(6, context="listener", listener=weights)  # a known track has 100 more
    lists = lists_of([[other for other in range(6) if other != row] for row in range(6)])
    arms = {"C": arm(context="listener", num_lists=1, **how)}
    return make_release(
        folder, catalog=make_catalog(range(6)), arms=arms, lists={"C": lists}, vectors={"C": vectors}, top_tracks=[0]
    )


def past_of(release: Release, *rows: int) -> Past:
    """A listener who has played some tracks in full, and knows them."""
    keys = release.keys[list(rows)].astype(np.int64)
    times = np.full(len(rows), START_MS - DAY_MS)
    _, entries = entries_of_events(np.zeros(len(rows), np.int64), keys, np.ones(len(rows), np.float32), times)
    return Past(entries, START_MS)


def answers(release: Release, past: Past | None, num: int = 60) -> set[tuple[int, float]]:
    """Rows and propensities after the track of row 0."""
    recommender = Recommender(release, np.random.default_rng(0))
    played = Played([int(release.keys[0])], [1.0])
    found = [recommender.follow("C", 1, 0, played, past) for _ in range(num)]
    return {(one.row, round(one.propensity, 9)) for one in found}


def test_what_the_listener_knows_is_played_where_it_is_so_much_better(tmp_path: Path) -> None:
    some, few, none = (released(tmp_path / str(f), pick="ranked", familiar=f) for f in (0.75, 0.25, 0.0))
    past = past_of(some, 3)
    assert answers(some, past) == {(3, 1.0)}
    ((other, chance),) = answers(few, past)
    assert (other not in (0, 3), chance) == (True, 1.0)
    assert answers(none, past) == {(other, 1.0)}


def test_a_listener_who_is_not_known_and_one_who_knows_all_get_the_best(tmp_path: Path) -> None:
    release = released(tmp_path, pick="ranked", familiar=0.0)
    assert {chance for _, chance in answers(release, None)} == {1.0}
    assert len(answers(release, past_of(release, 1, 2, 3, 4, 5))) == 1


def test_a_share_of_known_tracks_is_in_a_release_only_where_it_is_set(tmp_path: Path) -> None:
    arms = [released(tmp_path / str(share), pick="ranked", familiar=share).arms["C"] for share in (1.0, 0.25)]
    assert [one.familiar for one in arms] == [1.0, 0.25]
    assert ["familiar" in one.record() for one in arms] == [False, True]
    assert arms[1].describe().endswith("familiar=0.25")
    contents = json.loads(next(tmp_path.glob("0.25/**/release.json")).read_text())
    assert contents["arms"]["C"]["familiar"] == 0.25


@pytest.mark.parametrize("context", ["last", "session"])
def test_an_arm_that_does_not_know_its_listeners_is_refused(context: str) -> None:
    with pytest.raises(InputError, match=f"familiar=0.5 needs context=listener.* has context={context}"):
        Arm(recommender="r.jsonl", policy="lists", pick="ranked", context=context, familiar=0.5)
