from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.histories import Histories
from segue.models.heads import CosineMix
from segue.models.losses import BCELoss, MSELoss, SoftmaxLoss
from segue.models.pair_ranker import PairRanker
from tests.conftest import NUM_RING_TRACKS
from tests.contracts.building import fit
from tests.models.plain import COSINES, DOT, LAST_TRACK, SESSION

CONVEX = partial(COSINES, alpha=0.9, dim=32)
CONTEXTUAL = partial(DOT, dim=32)
SOFTMAX = partial(SoftmaxLoss, temperature=0.2, logq=1.0)


def ranker(datamodule: PairDataModule, **changes: Any) -> PairRanker:
    torch.manual_seed(0)
    usual: dict[str, Any] = {
        "scorer": CONVEX,
        "loss": BCELoss,
        "context": LAST_TRACK,
        "optimizer": partial(torch.optim.Adam, lr=0.02),
        "scheduler": None,
        "monitor": "val/loss",
    }
    return PairRanker(vocabulary=datamodule.vocabulary, **{**usual, **changes})


@pytest.mark.parametrize("loss", [BCELoss, SOFTMAX, MSELoss], ids=["bce", "softmax", "mse"])
def test_the_next_track_on_the_ring_is_recommended_first(ring: PairDataModule, loss: Any) -> None:
    model = ranker(ring, scorer=CONTEXTUAL, loss=loss)
    fit(model, ring, 8)
    with torch.no_grad():
        rows, _ = model.lists(1).collect()
    correct = rows[:, 0] == (torch.arange(NUM_RING_TRACKS).numpy() + 1) % NUM_RING_TRACKS
    assert correct.mean() > 0.95


def test_cosines_find_both_neighbours_on_the_ring(ring: PairDataModule) -> None:
    model = ranker(ring, scorer=partial(CONVEX, alpha=1.0), loss=SOFTMAX)
    fit(model, ring, 8)
    with torch.no_grad():
        rows, _ = model.lists(2).collect()
    neighbours = [{(row - 1) % NUM_RING_TRACKS, (row + 1) % NUM_RING_TRACKS} for row in range(NUM_RING_TRACKS)]
    assert sum(set(line.tolist()) == pair for line, pair in zip(rows, neighbours, strict=True)) > 0.9 * NUM_RING_TRACKS


def test_the_test_metrics_are_those_of_the_loops_beside_both_floors(ring: PairDataModule) -> None:
    model = ranker(ring)
    trainer = fit(model, ring, 2)
    [metrics] = trainer.test(model, ring, verbose=False)
    test, mean = ring.pairs["test"], ring.vocabulary.mean_played_ratio
    assert mean is not None
    sums = dict.fromkeys(("mse", "mae", "mse_mean_floor", "mae_mean_floor"), 0.0)
    columns = (test.previous, test.following, test.played_ratio, test.listener)
    for previous, following, share, listener in zip(*(column.tolist() for column in columns), strict=True):
        with torch.no_grad():
            score = model.scorer(torch.tensor([previous]), torch.tensor([following]))
            predicted = model.loss.predict(score, torch.tensor([listener])).item()
        sums["mse"] += (predicted - share) ** 2
        sums["mae"] += abs(predicted - share)
        sums["mse_mean_floor"] += (mean - share) ** 2
        sums["mae_mean_floor"] += abs(mean - share)
    for name, total in sums.items():
        assert metrics[f"test/{name}"] == pytest.approx(total / len(test), rel=1e-4), name
    assert metrics["alpha"] == pytest.approx(0.9)


def test_the_final_value_of_a_learned_alpha_is_logged(ring: PairDataModule) -> None:
    model = ranker(ring, scorer=partial(CONVEX, alpha="learned"))
    trainer = fit(model, ring, 2)
    assert isinstance(model.scorer, CosineMix)
    ended = model.scorer.logged()["alpha"]
    assert ended != 0.5
    assert trainer.callback_metrics["alpha"].item() == pytest.approx(ended)


def test_training_that_diverges_is_stopped(ring: PairDataModule) -> None:
    model = ranker(ring, scorer=CONTEXTUAL, loss=MSELoss, optimizer=partial(torch.optim.SGD, lr=1e30))
    with pytest.raises(InputError, match=r"training diverged: weights are not finite in epoch 1; lower optimizer.lr"):
        fit(model, ring, 3)


def test_weight_decay_applies_to_embeddings_only(ring: PairDataModule) -> None:
    model = ranker(ring, scorer=partial(CONVEX, alpha="learned"), optimizer=partial(torch.optim.Adam, weight_decay=0.5))
    tables, others = model.configure_optimizers().param_groups
    assert tables["weight_decay"] == 0.5
    assert {tuple(p.shape) for p in tables["params"]} == {(60, 32), (20, 32)}
    assert others["weight_decay"] == 0
    num_listeners = len(ring.vocabulary.listener_counts)
    assert {tuple(p.shape) for p in others["params"]} == {(), (1,), (num_listeners, 1)}
    assert len(tables["params"]) + len(others["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scorer": partial(CONVEX, width=3)}, "model refuses its settings: .*unexpected keyword argument 'width'"),
        ({"loss": partial(SOFTMAX, scale=1)}, "loss refuses its settings: .*'scale'"),
        ({"optimizer": partial(torch.optim.Adam, lr=-1)}, "optimizer refuses its settings: Invalid learning rate: -1"),
        ({"scorer": partial(CONVEX, alpha=2.0)}, r"^model.alpha must be a number of at least 0 and at most 1"),
    ],
)
def test_unknown_settings_are_refused(ring: PairDataModule, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ranker(ring, **change)


def test_tracks_heard_before_those_of_the_query_come_last_too(ring: PairDataModule) -> None:
    """The query reads two tracks, and the rule all."""
    model = ranker(ring, scorer=CONTEXTUAL, context=partial(SESSION, max_length=2, repeats="never"))
    histories = Histories(
        tracks=np.array([7, 5, 3]),
        played_ratio=np.ones(3, np.float32),
        last=np.array([2]),
        length=np.array([3]),
        previous=np.array([3]),
    )
    # two were heard besides the previous track, which is no candidate
    assert model.ranks(histories, np.array([7]))[0] in (NUM_RING_TRACKS - 2, NUM_RING_TRACKS - 1)
