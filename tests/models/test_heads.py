from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segue.errors import InputError
from segue.models.heads import CosineMix, TwoTableDot
from segue.models.kernels import Dropout
from segue.models.parts import BIAS_UNIT, unit
from tests.conftest import make_vocabulary

ARTISTS = [0, 0, 1, 1, 2, 3]
USUAL: dict[str, Any] = {"dim": 5, "init_std": 0.1, "item_bias": False, "dropout": 0.0}
Scorer = CosineMix | TwoTableDot


def cosine_mix(alpha: Any, seen: Iterable[int] | None = None, **changes: Any) -> CosineMix:
    torch.manual_seed(0)
    vocabulary = make_vocabulary(ARTISTS, previous_counts=seen, next_counts=seen)
    return CosineMix(vocabulary, alpha=alpha, **{**USUAL, "track_dropout": 0.0, **changes})


def two_tables(
    previous: Iterable[int] | None = None, following: Iterable[int] | None = None, **changes: Any
) -> TwoTableDot:
    torch.manual_seed(0)
    vocabulary = make_vocabulary(ARTISTS, previous_counts=previous, next_counts=following)
    return TwoTableDot(vocabulary, **{**USUAL, **changes})


def with_bias(scorer: Scorer) -> Scorer:
    assert scorer.item_bias is not None
    with torch.no_grad():
        scorer.item_bias.weight.copy_(torch.arange(len(ARTISTS))[:, None] / 10)
    return scorer


def every_pair(num: int = len(ARTISTS)) -> tuple[Tensor, Tensor]:
    previous, following = torch.cartesian_prod(torch.arange(num), torch.arange(num)).T
    return previous, following


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5)


@settings(max_examples=30)
@given(alpha=st.floats(0.01, 0.99))
def test_the_mix_is_the_formula(alpha: float) -> None:
    scorer = cosine_mix(alpha)
    tracks, artists = (part.get_parameter("weight").detach().double().numpy() for part in scorer.parts.values())
    pairs = every_pair()
    for previous, following, score in zip(*(column.tolist() for column in (*pairs, scorer(*pairs))), strict=True):
        of_tracks = cosine(tracks[previous], tracks[following])
        of_artists = cosine(artists[ARTISTS[previous]], artists[ARTISTS[following]])
        assert score == pytest.approx(alpha * of_tracks + (1 - alpha) * of_artists, abs=1e-5)


@given(alpha=st.floats(0, 1), scale=st.floats(0.01, 100))
def test_the_mix_is_bounded_symmetric_and_independent_of_vector_length(alpha: float, scale: float) -> None:
    scorer = cosine_mix(alpha)
    previous, following = every_pair()
    scores = scorer(previous, following)
    assert scores.abs().max() <= 1 + 1e-5
    torch.testing.assert_close(scores, scorer(following, previous))
    with torch.no_grad():
        for table in scorer.parameters():
            table.mul_(scale)
    torch.testing.assert_close(scorer(previous, following), scores, atol=1e-5, rtol=0)


def test_an_unknown_track_is_scored_by_its_artist_alone() -> None:
    scorer = cosine_mix(0.9, seen=[1, 0, 1, 1, 1, 1])
    artists = scorer.get_parameter("parts.artist.weight")
    expected = 0.1 * torch.cosine_similarity(artists[0], artists[1], dim=0)
    torch.testing.assert_close(scorer(torch.tensor([1]), torch.tensor([2]))[0], expected)
    torch.testing.assert_close(scorer(torch.tensor([1]), torch.tensor([0])), torch.tensor([0.1]))


def test_a_track_of_an_unknown_artist_scores_nothing() -> None:
    scorer = cosine_mix(0.9, seen=[1, 1, 1, 1, 1, 0])
    assert scorer(torch.full((6,), 5), torch.arange(6)).tolist() == [0.0] * 6


def test_unseen_tracks_stay_zero_in_training() -> None:
    scorer = cosine_mix("learned", seen=[1, 1, 1, 1, 1, 0])
    optimizer = torch.optim.Adam(scorer.parameters(), lr=0.1, weight_decay=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        scorer(torch.tensor([0, 1]), torch.tensor([2, 4])).sum().backward()
        optimizer.step()
    assert scorer.query_vectors()[5].abs().sum() == 0


def test_a_track_never_seen_as_context_has_a_zero_context_vector() -> None:
    scorer = two_tables(previous=[0, 1, 1, 1, 1, 1], following=[1, 1, 1, 1, 1, 0])
    assert scorer.query_vectors()[0].abs().sum() == 0
    assert scorer.item_vectors()[0].abs().sum() > 0
    assert scorer.item_vectors()[5].abs().sum() == 0


def test_a_head_has_only_the_tables_it_uses() -> None:
    assert list(cosine_mix(1.0).parts) == ["track"]
    assert list(cosine_mix(0.0).parts) == ["artist"]
    assert cosine_mix(1.0).query_vectors().shape == (6, 5)
    assert cosine_mix(0.5).query_vectors().shape == (6, 10)


@pytest.mark.parametrize("make", [partial(cosine_mix, 0.7), two_tables])
def test_an_item_bias_is_added_to_the_score_whatever_came_before(make: Callable[..., Scorer]) -> None:
    previous, following = every_pair()
    difference = with_bias(make(item_bias=True))(previous, following) - make()(previous, following)
    torch.testing.assert_close(difference, BIAS_UNIT * following / 10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dropped_tracks_have_zero_cosine_in_half_precision(dtype: torch.dtype) -> None:
    previous, following = every_pair()
    scorer = cosine_mix(0.7, track_dropout=0.5)
    with torch.autocast("cpu", dtype):
        scores = scorer(previous, following)
    scores.sum().backward()
    assert scores.isfinite().all()
    for name, parameter in scorer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_no_track_is_dropped_without_an_artist_to_replace_it() -> None:
    previous, following = every_pair()
    alone, mix = cosine_mix(1.0, track_dropout=0.5), cosine_mix(0.5, track_dropout=0.5)
    assert torch.equal(alone(previous, following), alone(previous, following))
    assert torch.equal(alone.query(previous), cosine_mix(1.0).query(previous))
    assert not torch.equal(mix(previous, following), mix(previous, following))


def test_offsets_make_the_score_depend_on_the_order() -> None:
    previous, following = every_pair()
    mix, ordered = cosine_mix(0.7), cosine_mix(0.7, order_std=0.1)
    torch.testing.assert_close(ordered.query_vectors(), mix.query_vectors())
    assert not torch.allclose(ordered(previous, following), ordered(following, previous))
    assert ordered(previous, following).abs().max() <= 1 + 1e-5


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_sets_numbers_to_zero_independently(share: float) -> None:
    torch.manual_seed(0)
    dropout, num_rows, width = Dropout(share), 4000, 31  # 31: draws of four numbers do not fill a row
    dropped = dropout(torch.full((num_rows, width), 2.0))
    zero = dropped == 0
    assert dropped[~zero].tolist() == pytest.approx([2 / (1 - share)] * int((~zero).sum()), rel=1e-4)
    error = (share * (1 - share) / num_rows) ** 0.5
    assert (zero.double().mean(0) - share).abs().max() < 5 * error
    deviations = (zero.double() - share) / (share * (1 - share)) ** 0.5
    correlation = deviations.T @ deviations / num_rows - torch.eye(width)
    assert correlation.fill_diagonal_(0).abs().max() < 5 / num_rows**0.5


def test_dropout_follows_the_seed_and_its_gradient_is_its_mask() -> None:
    dropout, values = Dropout(0.4), torch.ones(3, 7, requires_grad=True)
    torch.manual_seed(1)
    first = dropout(values)
    torch.manual_seed(1)
    assert torch.equal(dropout(values), first)
    assert not torch.equal(dropout(values), first)
    first.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, first)


@pytest.mark.parametrize(
    ("make", "kind"),
    [(partial(cosine_mix, 0.7), "dropout"), (partial(cosine_mix, 0.7), "track_dropout"), (two_tables, "dropout")],
)
def test_dropout_applies_in_training_only(make: Callable[..., Scorer], kind: str) -> None:
    previous, following = every_pair()
    scorer, whole = make(**{kind: 0.5}), make()(previous, following)
    assert not torch.allclose(scorer(previous, following), whole)
    torch.testing.assert_close(scorer.eval()(previous, following), whole)


@pytest.mark.parametrize("order_std", [0.0, 0.1])
def test_a_dropped_track_is_scored_by_its_artist(order_std: float) -> None:
    previous, following = every_pair()
    scorer = cosine_mix(0.7, track_dropout=0.5, order_std=order_std)
    whole, left_out = (cosine_mix(0.7, order_std=order_std) for _ in range(2))
    with torch.no_grad():
        left_out.get_parameter("parts.track.weight").zero_()
        if order_std:
            left_out.get_parameter("offsets.track.weight").zero_()
        kept = [whole(previous, following), left_out(previous, following)]
        of_pairs = torch.stack([scorer(previous, following) for _ in range(400)])
        of_vectors = torch.stack(
            [torch.linalg.vecdot(scorer.query(previous), scorer.item(following)) for _ in of_pairs]
        )
    for scores in (of_pairs, of_vectors):
        is_whole, is_left_out = (torch.isclose(scores, expected, atol=1e-6) for expected in kept)
        assert (is_whole | is_left_out).all()
        both_kept = is_whole[:, ~torch.isclose(*kept)].float().mean().item()
        assert both_kept == pytest.approx(0.5**2, abs=0.03)  # each place of a pair by itself


def test_a_learned_alpha_starts_in_the_middle_and_moves() -> None:
    scorer = cosine_mix("learned")
    assert scorer.logged()["alpha"] == 0.5
    optimizer = torch.optim.SGD(scorer.parameters(), lr=1.0)
    scorer(torch.tensor([0]), torch.tensor([1])).neg().backward()  # the same artist: its cosine is 1
    optimizer.step()
    assert scorer.logged()["alpha"] < 0.5


@pytest.mark.parametrize("alpha", [1.5, -0.1, float("nan"), "learn"])
def test_an_alpha_out_of_range_is_refused(alpha: Any) -> None:
    with pytest.raises(
        InputError, match=rf"model.alpha must be a number of at least 0 and at most 1 or learned, got '?{alpha}"
    ):
        cosine_mix(alpha)


@pytest.mark.parametrize("shrinkage", [0.0, 0.7])
def test_unit_vectors_have_the_values_and_gradients_of_the_formula(shrinkage: float) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([[(sum(x * x for x in line) + shrinkage**2) ** 0.5] for line in vectors.tolist()])
    torch.testing.assert_close(unit(vectors, shrinkage**2), vectors / lengths.double())
    assert torch.autograd.gradcheck(lambda given: unit(given, shrinkage**2), (vectors,))
    assert (unit(torch.zeros(2, 3), shrinkage**2) == 0).all()


def test_shrinkage_makes_short_embeddings_count_less() -> None:
    scorer = cosine_mix(1.0, shrinkage=0.5)
    with torch.no_grad():
        scorer.get_parameter("parts.track.weight")[:] = 0.0
        scorer.get_parameter("parts.track.weight")[:3, 0] = torch.tensor([2.0, 2.0, 0.1])
    often, rarely = scorer(torch.tensor([0, 0]), torch.tensor([1, 2])).tolist()
    assert often == pytest.approx(4 / 4.25)
    assert rarely == pytest.approx(0.2 / (4.25 * 0.26) ** 0.5)
