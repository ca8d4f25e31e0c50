"""What every context promises."""

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segue.models.contracts import Context, PairBatch, Queries, Scorer
from segue.models.head_ranker import session_vectors
from segue.picking.session_query import SessionQuery
from tests.conftest import make_vocabulary
from tests.contracts.building import composed, make_loss, names
from tests.contracts.test_heads import OF_ORDER

CONTEXTS = names("context")
RECIPES = {"shares": "bce", "shares, learned": "bce", "radio": "softmax", "counting": None}
"""With the loss of each; baselines have none."""
LEARNED = [f"context.{name}=learned" for name in ("decay", "earlier", "skipped")]
LEARNED += ["context.trains_on=session"]
"""Settings of a session of which nothing is fixed."""
ARTISTS = [0, 0, 1, 1, 2, 3, 4]
VOCABULARY = make_vocabulary(ARTISTS, mean_played_ratio=0.4)
WIDTH = 3
"""Columns of a history."""

tracks, shares = st.integers(0, len(ARTISTS) - 1), st.one_of(st.just(math.nan), st.floats(0, 1, width=32))
sessions = st.lists(st.lists(st.tuples(tracks, shares), min_size=1, max_size=WIDTH), min_size=1, max_size=5)
"""Histories, newest track first: rows of tracks and shares played."""


def make_context(name: str, recipe: str) -> tuple[Context, Scorer]:
    """A context from its yaml with a head that is not at its start, so that all that is learned matters."""
    recipe, _, learned = recipe.partition(", ")
    own = [*LEARNED, "model.shrinkage=0"] if learned and name != "last" else []
    config = composed(f"context={name}", f"recipe={recipe}", "model=convex", *own)
    head = config if recipe != "counting" else composed("model=convex")
    torch.manual_seed(0)
    scorer: Any = instantiate(head.model, _convert_="all", dim=4, init_std=0.5)(VOCABULARY)
    factory: Any = instantiate(config.context, _convert_="all")
    parts = scorer.query_parts()
    width = max(part.columns.stop for part in parts.values())
    context: Any = factory(VOCABULARY, list(parts), width=width, learns=recipe != "counting")
    scorer.eval()
    return context, scorer


MADE = [(name, recipe) for name in CONTEXTS if name not in OF_ORDER for recipe in RECIPES]
MADE += [(name, recipe) for name in OF_ORDER for recipe in ("shares", "radio")]


context_of = cache(make_context)
"""One for all tests that change nothing of it."""


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest) -> tuple[Context, Scorer]:
    return context_of(*request.param)


def each_of(keys: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("made", keys, ids=["-".join(key) for key in keys], indirect=True)


each = each_of(MADE)


def batch_of(histories: list[list[tuple[int, float]]], width: int = WIDTH) -> PairBatch:
    padded = [[*history, *[(-1, math.nan)] * (width - len(history))] for history in histories]
    rows = torch.tensor([[row for row, _ in line] for line in padded])
    played = torch.tensor([[share for _, share in line] for line in padded])
    return PairBatch(
        previous=rows[:, 0],
        following=torch.arange(len(rows)) % len(ARTISTS),
        played_ratio=torch.linspace(0, 1, len(rows)),
        listener=torch.zeros(len(rows), dtype=torch.int64),
        history=rows,
        history_share=played,
    )


def queries_of(made: tuple[Context, Scorer], batch: PairBatch) -> Queries:
    return made[0].queries(made[1], batch.previous, batch.history, batch.history_share)


def vectors_of(made: tuple[Context, Scorer], batch: PairBatch) -> Tensor:
    queries = queries_of(made, batch)
    return queries.vectors[queries.of_pair].detach()


def module(context: Context) -> nn.Module:
    assert isinstance(context, nn.Module)
    return context


@each
def test_it_keeps_the_contract(made: tuple[Context, Scorer]) -> None:
    context, _ = made
    assert isinstance(context.is_last, bool)
    assert context.max_length >= (0 if context.is_last else 1)
    assert (context.repeats.boosts() == -math.inf).all()
    assert context.of_loss.of_loss is context.of_loss
    assert all(isinstance(value, float) and math.isfinite(value) for value in context.logged().values())


@each
@settings(max_examples=6)
@given(histories=sessions)
def test_each_pair_has_a_query_that_may_not_recommend_its_previous_track(
    made: tuple[Context, Scorer], histories: list[list[tuple[int, float]]]
) -> None:
    batch = batch_of(histories)
    queries = queries_of(made, batch)
    assert len(queries.of_pair) == len(histories)
    assert len(queries.vectors) == len(queries.previous)
    assert torch.equal(queries.previous[queries.of_pair], batch.previous)
    if len(made[0].repeats.boosts()):
        assert torch.equal(queries.of_pair, torch.arange(len(histories)))


@each
@settings(max_examples=6)
@given(histories=sessions)
def test_a_query_is_that_of_what_is_exported(
    made: tuple[Context, Scorer], histories: list[list[tuple[int, float]]]
) -> None:
    context, scorer = made
    batch = batch_of(histories)
    ours = SessionQuery(session_vectors(scorer, context)).of(batch.history.numpy(), batch.history_share.numpy())
    np.testing.assert_allclose(ours, vectors_of(made, batch), atol=1e-5, rtol=1e-5)


@each_of([key for key in MADE if key[0] not in OF_ORDER])
@settings(max_examples=6)
@given(histories=sessions)
def test_a_query_is_a_weighted_sum(made: tuple[Context, Scorer], histories: list[list[tuple[int, float]]]) -> None:
    context, scorer = made
    batch = batch_of(histories)
    vectors, of_track = vectors_of(made, batch), scorer.query_vectors().detach()
    for name, part in scorer.query_parts().items():
        for pair, history in enumerate(histories):
            total = torch.zeros(part.columns.stop - part.columns.start)
            for age, (row, share) in enumerate(history):
                weight = context.weights(name, torch.tensor([age]), torch.tensor([share])).detach()
                total += weight * of_track[row, part.columns]
            torch.testing.assert_close(vectors[pair, part.columns], total, atol=1e-4, rtol=1e-4)
    end = part.columns.stop
    assert torch.equal(vectors[:, end:], of_track[batch.previous, end:])


@each
@settings(max_examples=6)
@given(histories=sessions)
def test_a_score_is_the_inner_product_of_query_and_item(
    made: tuple[Context, Scorer], histories: list[list[tuple[int, float]]]
) -> None:
    context, scorer = made
    batch = batch_of(histories)
    expected = (vectors_of(made, batch) * scorer.item(batch.following)).sum(1)
    torch.testing.assert_close(context.score(scorer, batch), expected, atol=1e-5, rtol=1e-5)


@each
@settings(max_examples=6)
@given(histories=sessions, more=st.integers(0, 3))
def test_neither_other_pairs_nor_empty_columns_change_a_query(
    made: tuple[Context, Scorer], histories: list[list[tuple[int, float]]], more: int
) -> None:
    together = vectors_of(made, batch_of(histories, WIDTH + more))
    alone = torch.cat([vectors_of(made, batch_of([history])) for history in reversed(histories)]).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


@each
def test_a_session_of_one_track_has_the_query_of_the_track(made: tuple[Context, Scorer]) -> None:
    rows = range(len(ARTISTS))
    one = vectors_of(made, batch_of([[(row, math.nan)] for row in rows]))
    torch.testing.assert_close(one, made[1].query_vectors().detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "recipe"), [key for key in MADE if key[1] != "counting"])
def test_all_that_it_learns_gets_a_gradient_from_the_loss_of_the_recipe(name: str, recipe: str) -> None:
    context, scorer = make_context(name, recipe)
    batch = batch_of(
        [[(2, 0.5), (5, 0.1), (1, 0.9)], [(0, 0.25)], [(3, 1.0), (4, 0.0), (6, 0.3)], [(1, 0.7), (3, 0.2)]]
    )
    made_loss = make_loss(str(RECIPES[recipe]), VOCABULARY)
    made_loss(scorer, batch, context.of_loss).backward()
    for parameter_name, parameter in module(context).named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize(("name", "recipe"), list(MADE))
def test_its_weights_bring_it_back(name: str, recipe: str) -> None:
    (context, scorer), (other, _) = make_context(name, recipe), make_context(name, recipe)
    with torch.no_grad():
        for parameter in module(context).parameters():
            parameter.add_(0.3)
    module(other).load_state_dict(module(context).state_dict())
    batch = batch_of([[(2, 0.5), (5, 0.1)], [(0, 0.25)]])
    assert torch.equal(vectors_of((other, scorer), batch), vectors_of((context, scorer), batch))
    assert other.logged() == context.logged()
