"""What the room shows of a release."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from segue.errors import InputError
from segue.models.head_ranker import session_vectors
from segue.models.heads import CosineMix
from segue.models.parts import Biases
from segue.serving.release import Release
from segue.serving.room.release_view import ReleaseView, alphas_of
from tests.conftest import make_vocabulary
from tests.models.plain import COSINES, LAST_TRACK
from tests.serving.room.conftest import ALPHA, ARTIST_OF, PLAYS, cosine_vectors, locate


@pytest.mark.parametrize("alpha", [0.0, 0.17, ALPHA, 1.0])
@pytest.mark.parametrize("key", ["C", "T1", "R1"])
def test_another_alpha_ranks_the_catalogue_as_the_formula_says(view: ReleaseView, key: str, alpha: float) -> None:
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
        shown = view.following(key, row, num=6, alpha=alpha)
        assert shown.scores == pytest.approx([scores[other] for other in expected[:6]], abs=2e-6)
        if len({round(score, 5) for score in scores.values()}) == len(scores) or alpha == 0:
            assert list(shown.rows) == expected[:6]
        assert shown.is_reranked


def test_another_alpha_ranks_as_the_head_of_that_alpha_does(release: Release, tmp_path: Path) -> None:
    """As the default recipe trains it: with shrinkage, an item bias, and an alpha that is learned."""
    torch.manual_seed(0)
    vocabulary = make_vocabulary(ARTIST_OF)
    head = COSINES(vocabulary, alpha="learned", parts=["track", "artist"], dim=6, item_bias=True, shrinkage=0.5)
    assert isinstance(head, CosineMix)
    assert isinstance(head.item_bias, Biases)
    assert head.alpha_logit is not None
    with torch.no_grad():
        head.item_bias.weight.normal_()
    context = LAST_TRACK(vocabulary, ["track", "artist"], learns=True)
    session_vectors(head, context).write(tmp_path / "vectors.npz", vocabulary.catalog)
    view = ReleaseView(release, [], locate)
    assert view.players["C"].alpha == pytest.approx(0.5)
    with torch.no_grad():
        head.alpha_logit.fill_(math.log(0.8 / 0.2))
        scores = head.query_vectors() @ head.item_vectors().T
    scores.fill_diagonal_(-math.inf)
    for row in range(len(ARTIST_OF)):
        shown = view.following("C", row, num=9, alpha=0.8)
        assert list(shown.rows) == scores[row].argsort(descending=True)[:9].tolist()
        assert shown.scores == pytest.approx(scores[row].sort(descending=True).values[:9].tolist(), abs=2e-6)
        parts = view.parts("C", row, shown.rows[0])
        assert parts is not None
        assert 0.8 * parts["track"] + 0.2 * parts["artist"] + parts["bias"] == pytest.approx(shown.scores[0], abs=1e-5)


def test_without_an_alpha_the_served_list_is_shown(view: ReleaseView) -> None:
    shown = view.following("C", 3, num=3, alpha=None)
    assert list(shown.rows) == view.release.lists["C"][3][:3].tolist()
    assert not shown.is_reranked


def test_recommenders_without_lists_show_what_they_choose_from(view: ReleaseView) -> None:
    assert list(view.following("T2", 3, num=5, alpha=None).rows) == [1, 4]
    assert list(view.following("T3", 3, num=5, alpha=0.5).rows) == []
    assert view.parts("T2", 0, 1) is None


def test_a_recommender_that_is_gone_is_shown_with_its_problem(view: ReleaseView) -> None:
    assert "is not on this machine any more" in view.players["R2"].problem
    assert list(view.following("R2", 0, num=5, alpha=None).rows) == []


def test_plays_and_labels_come_from_the_run(view: ReleaseView) -> None:
    assert view.record(1) == {"track": 101, "title": "Title 1", "artist": "Artist 0", "plays": 50}
    assert view.by_plays.tolist()[:3] == [1, 3, 4]
    assert view.players["C"].label == "convex α=learned seed=2"
    assert view.players["T2"].label == "popular"


def test_an_alpha_that_is_no_share_is_refused() -> None:
    assert alphas_of("C:0.5,T1:1") == {"C": 0.5, "T1": 1.0}
    for wrong in ("C:1.5", "C:nan", "C", "C:x"):
        with pytest.raises(InputError, match=r"alpha of C must lie in \[0, 1\]"):
            alphas_of(wrong)
