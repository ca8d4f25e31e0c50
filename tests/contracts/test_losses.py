"""What every loss promises."""

import pytest
import torch
from torch import nn

from segue.errors import InputError
from segue.models.contracts import Loss, PairBatch, Scorer
from tests.conftest import make_vocabulary
from tests.contracts.building import make_loss, names
from tests.models.plain import COSINES, LAST

LOSSES = names("loss")
VOCABULARY = make_vocabulary([0, 0, 1, 1, 2, 3])
BATCH = PairBatch.without_history(
    torch.tensor([0, 1, 4, 2, 3]),
    torch.tensor([2, 4, 2, 0, 5]),
    torch.tensor([1.0, 0.25, 0.5, 0.0, torch.nan]),
    torch.tensor([0, 0, 1, 2, 2]),
)


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> Loss:
    return make_loss(request.param, VOCABULARY)


@pytest.fixture
def scorer() -> Scorer:
    torch.manual_seed(0)
    return COSINES(VOCABULARY, alpha=0.7, dim=5)


def test_it_keeps_the_contract(loss: Loss) -> None:
    assert isinstance(loss, nn.Module)


def test_it_is_one_finite_number_that_moves_the_scorer(loss: Loss, scorer: Scorer) -> None:
    value = loss(scorer, BATCH, LAST)
    assert value.shape == ()
    assert value.isfinite()
    value.backward()
    assert isinstance(scorer, nn.Module)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in scorer.parameters())


def test_the_order_of_a_batch_does_not_matter(loss: Loss, scorer: Scorer) -> None:
    turned = PairBatch(*(column.flip(0) for column in BATCH))
    torch.testing.assert_close(loss(scorer, turned, LAST), loss(scorer, BATCH, LAST))


def test_a_batch_without_shares_has_a_finite_loss(loss: Loss, scorer: Scorer) -> None:
    unknown = BATCH._replace(played_ratio=torch.full_like(BATCH.played_ratio, torch.nan))
    assert loss(scorer, unknown, LAST).isfinite()


def test_a_step_down_its_gradient_makes_it_smaller(loss: Loss, scorer: Scorer) -> None:
    assert isinstance(scorer, nn.Module)
    assert isinstance(loss, nn.Module)
    optimizer = torch.optim.SGD([*scorer.parameters(), *loss.parameters()], lr=1e-3)
    before = loss(scorer, BATCH, LAST)
    before.backward()
    optimizer.step()
    assert loss(scorer, BATCH, LAST) < before


def test_it_predicts_a_share_for_each_score_or_none(loss: Loss, scorer: Scorer) -> None:
    score = scorer(BATCH.previous, BATCH.following).detach()
    predicted = loss.predict(score, BATCH.listener)
    assert predicted.shape == score.shape
    assert predicted.isfinite().all() or (type(loss).predict is Loss.predict and predicted.isnan().all())


@pytest.mark.parametrize("name", LOSSES)
def test_a_source_without_shares_is_refused_or_has_no_predictions(name: str) -> None:
    without, refused = make_vocabulary([0, 0, 1, 1, 2, 3], mean_played_ratio=None), ""
    try:
        loss = make_loss(name, without)
    except InputError as error:
        refused = str(error)
    if refused:
        assert "use recipe=playlists" in refused
    else:
        assert loss.predict(torch.zeros(2), torch.zeros(2, dtype=torch.int64)).isnan().all()
