import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segue.catalog import Calendar
from segue.errors import InputError
from segue.models.contracts import PairBatch
from segue.models.heads import CosineMix, TwoTableDot
from segue.models.losses import BCELoss, MSELoss, SoftmaxLoss
from tests.conftest import make_listens, make_vocabulary
from tests.models.plain import COSINES, DOT, LAST

NEXT_COUNTS = [5, 1, 2, 0, 9, 3]
VOCABULARY = make_vocabulary([0, 0, 1, 1, 2, 3], next_counts=NEXT_COUNTS)
BATCH = PairBatch.without_history(
    torch.tensor([0, 1, 4, 2]),
    torch.tensor([2, 4, 2, 0]),
    torch.tensor([1.0, 0.25, 0.5, 0.0]),
    torch.tensor([0, 0, 1, 2]),
)
UNKNOWN = torch.full((4,), torch.nan)
ONE = torch.zeros(4, dtype=torch.int64)
"""The same listener all the time."""


@pytest.fixture
def scorer() -> CosineMix:
    torch.manual_seed(0)
    return COSINES(VOCABULARY, alpha=0.7, dim=5)


def test_mse_is_the_mean_squared_difference_of_score_and_share(scorer: CosineMix) -> None:
    previous, following, share, listener, *_ = BATCH
    loss = MSELoss(VOCABULARY)
    scores = scorer(previous, following)
    expected = sum((float(s) - float(y)) ** 2 for s, y in zip(scores.detach(), share, strict=True)) / 4
    assert loss(scorer, BATCH, LAST).item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(loss.predict(scores, listener), scores)


def test_a_score_of_nothing_predicts_the_mean_share() -> None:
    loss = BCELoss(VOCABULARY)
    unknown = torch.full((3,), 2)  # training shows nothing of the third listener
    low, middle, high = loss.predict(torch.tensor([-1.0, 0.0, 1.0]), unknown).tolist()
    assert middle == pytest.approx(0.4)
    assert low < middle < high


def test_a_listener_is_predicted_by_a_bias_of_their_own(scorer: CosineMix) -> None:
    loss = BCELoss(VOCABULARY)
    with torch.no_grad():
        loss.log_scale.fill_(math.log(3))
        loss.listener_bias.weight.copy_(torch.tensor([[0.5], [-2.0], [7.0]]))
    previous, following, share, listener, *_ = BATCH
    expected = prior = predicted = 0.0
    spread = 2.0
    start = math.log(0.4 / 0.6) * math.sqrt(1 + math.pi / 8 * spread**2)
    rows = zip(scorer(previous, following).tolist(), share.tolist(), listener.tolist(), strict=True)
    for score, y, who in rows:
        logit = 3 * score + start + (0.5, -2.0, 7.0)[who]
        unknown = 1 / (1 / spread**2 + (8, 1, 0)[who] * 0.4 * 0.6)
        for z in (logit, logit / math.sqrt(1 + math.pi / 8 * unknown)):
            p = 1 / (1 + math.exp(-z))
            one = (y * math.log(p) + (1 - y) * math.log(1 - p)) / 4
            expected, predicted = (expected - one, predicted) if z == logit else (expected, predicted - one)
        prior += (0.5, -2.0, 7.0)[who] ** 2 / 2 / spread**2 / (8, 1, 1)[who] / 4
    assert loss(scorer, BATCH, LAST).item() == pytest.approx(expected + prior, rel=1e-5)
    assert loss.eval()(scorer, BATCH, LAST).item() == pytest.approx(predicted, rel=1e-5)


@pytest.mark.parametrize(("mean", "predicted"), [(0.0, 1e-3), (1.0, 1 - 1e-3)])
def test_shares_that_are_all_0_or_all_1_leave_the_bias_finite(mean: float, predicted: float) -> None:
    loss = BCELoss(make_vocabulary([0, 1], mean_played_ratio=mean))
    assert loss.predict(torch.zeros(1), torch.tensor([2])).item() == pytest.approx(predicted, rel=1e-4)


def test_what_is_predicted_of_someone_unknown_is_the_mean_over_all_listeners() -> None:
    loss = BCELoss(VOCABULARY)
    scores = torch.tensor([-2.0, 0.0, 3.0])
    with torch.no_grad():
        biases = 2.0 * torch.randn(200_000, generator=torch.Generator().manual_seed(0))
        everyone = torch.sigmoid(scores[:, None] + loss.bias + biases).mean(1)
        assert loss.predict(scores, torch.full((3,), 2)).tolist() == pytest.approx(everyone.tolist(), abs=0.015)


def test_listeners_who_differ_do_not_bend_the_scores() -> None:
    """Shares go by the listener alone, and the generous one heard the first pair more often than the stern one did."""
    vocabulary = make_vocabulary([0, 1, 2, 3], listener_counts=(50, 50))
    second_pair = torch.tensor([False] * 40 + [True] * 20 + [False] * 10 + [True] * 30).long()
    who = (torch.arange(100) >= 50).long()
    previous, following = torch.tensor([0, 2])[second_pair], torch.tensor([1, 3])[second_pair]
    share = torch.tensor([0.9, 0.1])[who]
    gaps = []
    for listener in (torch.zeros_like(who), who):
        torch.manual_seed(0)
        scorer = COSINES(vocabulary, alpha=1.0, dim=4)
        loss = BCELoss(vocabulary)
        optimizer = torch.optim.Adam([*scorer.parameters(), *loss.parameters()], lr=0.05)
        for _ in range(400):
            optimizer.zero_grad()
            loss(scorer, PairBatch.without_history(previous, following, share, listener), LAST).backward()
            optimizer.step()
        first, second = scorer(torch.tensor([0, 2]), torch.tensor([1, 3])).tolist()
        gaps.append(loss.log_scale.exp().item() * (first - second))
    assert gaps[0] > 1.0
    assert abs(gaps[1]) < 0.3


def test_a_listener_whom_training_does_not_show_has_no_bias(scorer: CosineMix) -> None:
    loss = BCELoss(VOCABULARY)
    loss(scorer, BATCH._replace(listener=torch.tensor([0, 0, 1, 1])), LAST).backward()
    assert loss.listener_bias.weight.grad is not None
    assert (loss.listener_bias.weight.grad[:, 0] == 0).tolist() == [False, False, True]


def softmax_by_loops(scorer: CosineMix, batch: PairBatch, temperature: float, logq: float) -> float:
    previous, following, share, *_ = (column.tolist() for column in batch)
    queries, items = scorer.query_vectors().detach().double(), scorer.item_vectors().detach().double()
    counts = [max(count, 1) for count in NEXT_COUNTS]
    total = weights = 0.0
    for i, query in enumerate(previous):
        logits = []
        for j, candidate in enumerate(following):
            if j != i and candidate in (following[i], query):
                continue
            of_candidate = logq * math.log(counts[candidate] / sum(counts))
            logits.append(float(queries[query] @ items[candidate]) / temperature - of_candidate)
            if j == i:
                own = logits[-1]
        weight = 1.0 if math.isnan(share[i]) else share[i]
        weight *= query != following[i]
        total -= weight * (own - math.log(sum(map(math.exp, logits))))
        weights += weight
    return total / weights


@pytest.mark.parametrize("logq", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shares", [BATCH.played_ratio, UNKNOWN, torch.tensor([torch.nan, 1.0, 0.1, 0.3])])
def test_softmax_is_the_weighted_mean_of_the_loops(scorer: CosineMix, logq: float, shares: Tensor) -> None:
    without_shares = make_vocabulary([0, 0, 1, 1, 2, 3], next_counts=NEXT_COUNTS, mean_played_ratio=None)
    loss = SoftmaxLoss(without_shares, temperature=0.2, logq=logq)
    for previous in (BATCH.previous, torch.tensor([2, 1, 4, 2])):  # the second has a track after itself
        batch = BATCH._replace(previous=previous, played_ratio=shares)
        assert loss(scorer, batch, LAST).item() == pytest.approx(softmax_by_loops(scorer, batch, 0.2, logq), rel=1e-4)


def masks(previous: Tensor, following: Tensor) -> Tensor:
    same = (following[:, None] == following) | (previous[:, None] == following)
    return same.fill_diagonal_(False)


def test_a_softmax_is_corrected_by_the_logarithm_of_the_share_of_plays_and_a_track_without_plays_has_one() -> None:
    loss = SoftmaxLoss(VOCABULARY, temperature=0.2, logq=0.5)
    plays = np.array([5, 1, 2, 1, 9, 3])
    assert loss.log_q.numpy() == pytest.approx(0.5 * np.log(plays / plays.sum()))


def two_tables() -> TwoTableDot:
    """A scorer in double precision."""
    torch.manual_seed(3)
    return DOT(VOCABULARY, dim=3).double()


def plain_softmax(loss: SoftmaxLoss, scorer: TwoTableDot, batch: PairBatch) -> Tensor:
    """The formula, with autograd's gradients."""
    logits = scorer.query(batch.previous) @ scorer.item(batch.following).T / loss.temperature
    logits = logits - loss.log_q[batch.following]
    logits = logits.masked_fill(masks(batch.previous, batch.following), -torch.inf)
    weight = batch.played_ratio.nan_to_num(nan=1.0) * (batch.previous != batch.following)
    return -(logits.log_softmax(dim=1).diagonal() * weight).sum() / weight.sum().clamp(min=1e-9)


SOFTMAX_BATCHES = {
    "shares": BATCH,
    "some shares unknown": BATCH._replace(played_ratio=torch.tensor([torch.nan, 1.0, 0.1, 0.3])),
    "a track after itself": BATCH._replace(previous=torch.tensor([2, 1, 4, 2])),
    "all pairs share a track": BATCH._replace(following=torch.tensor([3, 3, 3, 3])),
    "all pairs share a track that is also a query": BATCH._replace(
        previous=torch.tensor([3, 1, 4, 2]), following=torch.tensor([3, 3, 3, 3])
    ),
    "each track follows itself": BATCH._replace(previous=torch.full((4,), 3), following=torch.full((4,), 3)),
    "no pair weighs anything": BATCH._replace(played_ratio=torch.zeros(4)),
}


@pytest.mark.parametrize("batch", SOFTMAX_BATCHES.values(), ids=SOFTMAX_BATCHES.keys())
@pytest.mark.parametrize("temperature", [0.005, 0.2])
def test_softmax_and_its_gradients_are_those_of_the_plain_formula(batch: PairBatch, temperature: float) -> None:
    loss, scorer = SoftmaxLoss(VOCABULARY, temperature=temperature, logq=1.0).double(), two_tables()
    batch = batch._replace(played_ratio=batch.played_ratio.double())
    values, gradients = [], []
    for value in (loss(scorer, batch, LAST), plain_softmax(loss, scorer, batch)):
        values.append(value.detach())
        gradients.append(torch.cat(torch.autograd.grad(3 * value, list(scorer.parameters()))))
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch", SOFTMAX_BATCHES.values(), ids=SOFTMAX_BATCHES.keys())
def test_softmax_with_products_in_bfloat16_is_near_that_in_float32(batch: PairBatch) -> None:
    loss, scorer = SoftmaxLoss(VOCABULARY, temperature=0.2, logq=1.0), two_tables().float()
    values, gradients = [], []
    for is_half in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            value = loss(scorer, batch, LAST)
        values.append(value.detach())
        gradients.append(torch.cat(torch.autograd.grad(value, list(scorer.parameters()))))
    torch.testing.assert_close(values[0], values[1], rtol=0.02, atol=0.02)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.02, atol=0.02)


def test_a_softmax_predicts_no_share() -> None:
    loss = SoftmaxLoss(VOCABULARY, temperature=0.2, logq=1.0)
    assert loss.predict(torch.zeros(3), ONE[:3]).isnan().all()
    assert not list(loss.parameters())


@pytest.mark.parametrize("loss", [MSELoss(VOCABULARY), BCELoss(VOCABULARY)])
def test_pairs_without_a_share_teach_nothing(scorer: CosineMix, loss: MSELoss | BCELoss) -> None:
    batch = BATCH._replace(played_ratio=torch.tensor([1.0, torch.nan, 0.5, torch.nan]))
    first, third = (loss(scorer, PairBatch(*(column[[row]] for column in batch)), LAST) for row in (0, 2))
    torch.testing.assert_close(loss(scorer, batch, LAST), (first + third) / 2)
    none = loss(scorer, BATCH._replace(played_ratio=UNKNOWN), LAST)
    none.backward()
    assert none.item() == 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in scorer.parameters())


@pytest.mark.parametrize("make", [MSELoss, BCELoss])
def test_a_loss_on_shares_refuses_a_source_without_them(make: Any) -> None:
    with pytest.raises(InputError, match=r"loss=(mse|bce) learns from shares played.*use recipe=playlists"):
        make(make_vocabulary([0, 1], mean_played_ratio=None))


@pytest.mark.parametrize("logq", [0.0, 1.0])
def test_where_plays_age_the_softmax_learns_the_popularity_of_now(logq: float) -> None:
    listens = make_listens([[(0, 1.0)] * 8, [(4, 1.0)] * 8, [(5, 1.0)] * 2])
    ages = Calendar(age=np.array([6.0, 0.0, 0.0], np.float32), half_life=2.0)
    words = replace(make_vocabulary([0, 0, 1, 1, 2, 3], next_counts=NEXT_COUNTS, listens=listens), calendar=ages)
    words = replace(words, plays=np.bincount(listens.track, minlength=6))
    plain, aged = (SoftmaxLoss(one, temperature=0.5, logq=logq) for one in (replace(words, calendar=None), words))
    assert words.trend[0] < 0.4 < 1 < words.trend[4]
    torch.testing.assert_close(aged.log_q, plain.log_q + torch.from_numpy(words.trend).log())
    assert plain.first_scores is None
    assert aged.first_scores is not None
    now = torch.tensor(NEXT_COUNTS).clamp(min=1) * torch.from_numpy(words.trend)
    difference = aged.first_scores[4] - aged.first_scores[0]
    torch.testing.assert_close(difference.item(), 0.5 * math.log(now[4] / now[0]), rtol=1e-5, atol=1e-6)
    head = COSINES(words, alpha=0.5, dim=4, item_bias=True)
    assert head.item_bias is not None
    head.item_bias.begin_with(aged.first_scores)
    torch.testing.assert_close(head.item_vectors()[:, -1], aged.first_scores)
