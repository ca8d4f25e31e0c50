"""What the room shows of a release."""

import numpy as np
import pytest

from src.errors import InputError
from src.room.shelf import Shelf, alphas_of
from tests.room.conftest import ALPHA, ARTIST_OF, PLAYS, cosine_vectors


@pytest.mark.parametrize("alpha", [0.0, 0.17, ALPHA, 1.0])
@pytest.mark.parametrize("key", ["C", "T1", "R1"])
def test_another_alpha_ranks_the_catalogue_as_the_formula_says(shelf: Shelf, key: str, alpha: float) -> None:
    """score = α·cos(tracks) + (1 − α)·cos(artists), by slow loops; ties by plays, then by the catalogue."""
    both = cosine_vectors().queries.astype(np.float64)
    tracks, artists = both[:, :4] / ALPHA**0.5, both[:, 4:] / (1 - ALPHA) ** 0.5
    for row in range(len(ARTIST_OF)):
        scores = {
            other: round(float(alpha * tracks[row] @ tracks[other] + (1 - alpha) * artists[row] @ artists[other]), 6)
            for other in range(len(ARTIST_OF))
            if other != row
        }
        expected = sorted(scores, key=lambda other: (-scores[other], -PLAYS[other], other))
        shown = shelf.following(key, row, num=6, alpha=alpha)
        assert shown.scores == pytest.approx([scores[other] for other in expected[:6]], abs=2e-6)
        if len({round(score, 5) for score in scores.values()}) == len(scores) or alpha == 0:
            assert list(shown.rows) == expected[:6]
        assert shown.is_reranked


def test_without_an_alpha_the_served_list_is_shown(shelf: Shelf) -> None:
    shown = shelf.following("C", 3, num=3, alpha=None)
    assert list(shown.rows) == shelf.release.lists["C"][3][:3].tolist()
    assert not shown.is_reranked


def test_the_cosines_add_up_to_the_score(shelf: Shelf) -> None:
    assert shelf.players["C"].alpha == pytest.approx(ALPHA)
    for row, score in zip(
        *(lambda one: (one.rows, one.scores))(shelf.following("C", 0, num=4, alpha=None)), strict=True
    ):
        parts = shelf.parts("C", 0, row)
        assert parts is not None
        assert ALPHA * parts["track"] + (1 - ALPHA) * parts["artist"] == pytest.approx(score, abs=1e-5)


def test_recommenders_without_lists_show_what_they_choose_from(shelf: Shelf) -> None:
    assert list(shelf.following("T2", 3, num=5, alpha=None).rows) == [1, 4]
    assert list(shelf.following("T3", 3, num=5, alpha=0.5).rows) == []
    assert shelf.parts("T2", 0, 1) is None


def test_a_recommender_that_is_gone_is_shown_with_its_problem(shelf: Shelf) -> None:
    assert "is not on this machine any more" in shelf.players["R2"].problem
    assert list(shelf.following("R2", 0, num=5, alpha=None).rows) == []


def test_plays_and_labels_come_from_the_run(shelf: Shelf) -> None:
    assert shelf.record(1) == {"track": 101, "title": "Title 1", "artist": "Artist 0", "plays": 50}
    assert shelf.by_plays.tolist()[:3] == [1, 3, 4]
    assert shelf.players["C"].label == "convex seed=2"
    assert shelf.players["T2"].label == "popular"


def test_an_alpha_that_is_no_share_is_refused() -> None:
    assert alphas_of("C:0.5,T1:1") == {"C": 0.5, "T1": 1.0}
    for wrong in ("C:1.5", "C:nan", "C", "C:x"):
        with pytest.raises(InputError, match=r"alpha of C must lie in \[0, 1\]"):
            alphas_of(wrong)
