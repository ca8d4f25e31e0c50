"""The search of tracks: typos, scripts, order."""

import numpy as np
import pytest

pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed; run make setup")

from segue.serving.room.title_search import TitleIndex, build_index

TEXTS = [
    "Help! The Beatles",
    "Yesterday The Beatles",
    "Help Bananarama",
    "Господин Великий Новгород Кино",
    "Группа крови Кино",
    "東京事変 群青日和",
    "新東京 Cynicism",
    "Déjà Vu Beyoncé",
    "Don't Stop Me Now Queen",
    "Help Me Joni Mitchell",
    "",
]
BY_PLAYS = np.array([9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10])


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> TitleIndex:
    path = tmp_path_factory.mktemp("index") / "room" / "titles.sqlite"
    build_index(path, (TEXTS[row] for row in BY_PLAYS))
    return TitleIndex(path, TEXTS.__getitem__, BY_PLAYS)


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("yester", 1),
        ("the bea hel", 0),
        ("yestreday", 1),  # two letters exchanged
        ("киноо кров", 4),
        ("новгорд", 3),
        ("東京", 5),
        ("新東京", 6),
        ("群青日", 5),
        ("deja vu", 7),
        ("BEYONCÉ", 7),
        ("don’t st", 8),
        ("joni mitchel", 9),
    ],
)
def test_the_track_that_was_meant_comes_first(index: TitleIndex, typed: str, first: int) -> None:
    assert index.find(typed, 5)[0] == first


def test_of_equal_matches_the_most_played_comes_first(index: TitleIndex) -> None:
    assert index.find("help", 5) == [9, 0, 2]
    assert index.find("h", 2) == [9, 0]


@pytest.mark.parametrize("typed", ["", "  ", "!?", '"', "zzzzqqq", "%", "NEAR(", "a" * 1000])
def test_what_is_nothing_finds_nothing_or_something_and_never_fails(index: TitleIndex, typed: str) -> None:
    assert index.find(typed, 5) == []
