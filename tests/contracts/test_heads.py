"""What every head promises. Add a new setting, with another value, to SETTINGS."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segue.catalog import Vocabulary
from segue.models.contracts import PairBatch, Scorer
from tests.conftest import make_vocabulary
from tests.contracts.building import make_head, make_loss, models_of
from tests.models.plain import LAST

OF_ORDER = ["gru4rec", "sasrec"]
"""convex with a context that reads the order; see `test_contexts.py`."""
HEADS = [model for model in models_of("heads") if model not in OF_ORDER]
SETTINGS = [
    "convex model.alpha=0.3",
    "convex model.shrinkage=0.7",
    "convex model.order_std=0.1",
    "contextual model.dropout=0.2",
    "contextual model.item_bias=true",
]
"""Heads with a value of a setting that no recipe has."""
RECIPES = {"shares": "bce", "playlists": "softmax", "published": "mse"}
"""With the loss of each."""
ARTISTS = [0, 0, 1, 1, 2, 3, 4]
NEVER_SEEN = 6
"""A track that no training pair shows, of an artist that none shows."""


def vocabulary_of(recipe: str) -> Vocabulary:
    counts = [1] * NEVER_SEEN + [0]
    mean = None if recipe == "playlists" else 0.4
    return make_vocabulary(ARTISTS, previous_counts=counts, next_counts=counts, mean_played_ratio=mean)


@pytest.fixture(params=[(head, recipe) for head in [*HEADS, *SETTINGS] for recipe in RECIPES], ids="-".join)
def head_and_recipe(request: pytest.FixtureRequest) -> tuple[Scorer, str]:
    name, recipe = request.param
    return make_head(*name.split(), vocabulary=vocabulary_of(recipe), recipe=recipe), recipe


@pytest.fixture
def head(head_and_recipe: tuple[Scorer, str]) -> Scorer:
    return head_and_recipe[0]


def module(head: Scorer) -> nn.Module:
    assert isinstance(head, nn.Module)
    return head


def every_pair() -> tuple[Tensor, Tensor]:
    first, second = torch.meshgrid(torch.arange(len(ARTISTS)), torch.arange(len(ARTISTS)), indexing="ij")
    return first.ravel(), second.ravel()


def test_it_keeps_the_contract(head: Scorer) -> None:
    assert isinstance(head, Scorer)
    assert head.num_tracks == len(ARTISTS)


def shake(head: Scorer) -> None:
    """Give every number of the head another value: biases begin at 0, where they show nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module(head).parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def test_the_score_is_the_inner_product_of_query_and_item(head: Scorer) -> None:
    shake(head)
    module(head).eval()
    previous, following = every_pair()
    expected = (head.query_vectors() @ head.item_vectors().T)[previous, following]
    torch.testing.assert_close(head(previous, following), expected, atol=1e-5, rtol=1e-5)


def test_the_vectors_of_the_catalogue_are_those_of_its_rows(head: Scorer) -> None:
    module(head).eval()
    rows = torch.arange(len(ARTISTS)).flip(0)
    assert torch.equal(head.query_vectors().flip(0), head.query(rows))
    assert torch.equal(head.item_vectors().flip(0), head.item(rows))
    assert head.query_vectors().shape == head.item_vectors().shape


def test_out_of_training_a_score_is_always_the_same(head: Scorer) -> None:
    module(head).eval()
    assert torch.equal(head(*every_pair()), head(*every_pair()))


def test_in_training_every_parameter_gets_a_gradient_from_the_loss_of_its_recipe(
    head_and_recipe: tuple[Scorer, str],
) -> None:
    head, recipe = head_and_recipe
    previous, following = every_pair()
    shares = torch.rand(len(previous), generator=torch.Generator().manual_seed(0))
    batch = PairBatch.without_history(previous, following, shares, torch.zeros_like(previous))
    make_loss(RECIPES[recipe], make_vocabulary(ARTISTS))(head, batch, LAST).backward()
    for name, parameter in module(head).named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_track_of_which_nothing_is_known_scores_the_same_with_all_that_has_no_bias(head: Scorer) -> None:
    module(head).eval()
    unknown = torch.full((len(ARTISTS),), NEVER_SEEN)
    assert torch.equal(head(unknown, torch.arange(len(ARTISTS))), torch.zeros(len(ARTISTS)))
    assert torch.equal(head(torch.arange(len(ARTISTS)), unknown), torch.zeros(len(ARTISTS)))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_changes_the_score(name: str) -> None:
    """In training, where dropout counts too."""
    scores = []
    for words in (name.split()[:1], name.split()):
        head = make_head(*words, vocabulary=vocabulary_of("shares"), recipe="shares")
        shake(head)
        torch.manual_seed(2)
        scores.append(module(head).train()(*every_pair()))
    assert not torch.allclose(*scores)


def test_its_weights_bring_it_back(head_and_recipe: tuple[Scorer, str], request: pytest.FixtureRequest) -> None:
    head, recipe = head_and_recipe
    name = request.node.callspec.params["head_and_recipe"][0]
    other = make_head(*name.split(), vocabulary=vocabulary_of(recipe), recipe=recipe)
    shake(head)
    module(other).load_state_dict(module(head).state_dict())
    module(head).eval()
    module(other).eval()
    assert torch.equal(other(*every_pair()), head(*every_pair()))


def test_what_it_wants_logged_is_finite(head: Scorer) -> None:
    assert all(isinstance(value, float) and np.isfinite(value) for value in head.logged().values())
