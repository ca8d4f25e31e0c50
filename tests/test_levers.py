"""The variants of `experiments/recipe`: with a setting of nothing they are what they vary."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from experiments.recipe.levers import (
    AlphaByCount,
    AveragedWeights,
    BCEAgainstNearest,
    BCEAndSoftmax,
    BCEByRarity,
    BCEOfBoth,
    DecayingPairs,
    ItemBiasInTraining,
    MeanOfTwo,
    SoftmaxAgainstNearest,
    TwoTables,
)
from src.datamodules.pair_datamodule import PairDataModule
from src.models.heads import CosineMix
from src.models.losses import BCELoss, SoftmaxLoss
from tests.conftest import event, make_vocabulary, write_lines, write_tracks

VOCABULARY = make_vocabulary([0, 0, 1, 1, 2, 3], next_counts=[5, 1, 2, 0, 9, 3])
BATCH = (
    torch.tensor([0, 1, 4, 2]),
    torch.tensor([2, 4, 2, 0]),
    torch.tensor([1.0, 0.25, 0.5, 0.0]),
    torch.tensor([0, 0, 1, 2]),
)
HEAD: dict[str, Any] = {
    "alpha": 0.7, "fixed_alpha": None, "dim": 5, "init_std": 0.1, "item_bias": False, "dropout": 0.0,
    "track_dropout": 0.0, "order_std": 0.0,
}  # fmt: skip
BCE: dict[str, Any] = {"scale": 3.0, "listener_spread": 1.0}
SOFTMAX: dict[str, Any] = {"temperature": 0.2, "logq": 1.0}


def head(kind: type[CosineMix] = CosineMix, **settings: Any) -> CosineMix:
    torch.manual_seed(0)
    return kind(VOCABULARY, **HEAD, **settings)


def value(loss: nn.Module, batch: tuple[Tensor, ...] = BATCH) -> float:
    torch.manual_seed(0)
    with torch.no_grad():
        return float(loss(head(), *batch))


@pytest.mark.parametrize(
    ("lever", "of_nothing", "of_something", "varied"),
    [
        (BCEByRarity, {"power": 0.0}, {"power": 1.0}, partial(BCELoss, **BCE)),
        (BCEAgainstNearest, {"weight": 0.0, "drawn": 2}, {"weight": 0.5, "drawn": 2}, partial(BCELoss, **BCE)),
        (BCEAndSoftmax, {"softmax": 0.0, "temperature": 1.0}, {"softmax": 0.1, "temperature": 1.0},
         partial(BCELoss, **BCE)),
        (SoftmaxAgainstNearest, {"hardness": 0.0}, {"hardness": 1.0}, partial(SoftmaxLoss, **SOFTMAX)),
    ],
)  # fmt: skip
def test_a_loss_with_a_lever_at_nothing_is_the_loss(
    lever: type[nn.Module], of_nothing: dict[str, Any], of_something: dict[str, Any], varied: partial[nn.Module]
) -> None:
    settings = varied.keywords
    plain = value(varied(VOCABULARY))
    assert value(lever(VOCABULARY, **settings, **of_nothing)) == pytest.approx(plain, rel=1e-5)
    moved = lever(VOCABULARY, **settings, **of_something)
    assert abs(value(moved) - plain) > 0.01 * plain
    if lever is not SoftmaxAgainstNearest:  # shares of validation are foretold as without the lever
        assert value(moved.eval()) == pytest.approx(value(varied(VOCABULARY).eval()))


def test_hard_negatives_are_near_ones_counted_more_often() -> None:
    hardness, loss = 0.5, SoftmaxLoss(VOCABULARY, **SOFTMAX)
    logits = loss.logits(head(), BATCH[0], BATCH[1]).detach().double()
    total = 0.0
    for line, weight in enumerate(BATCH[2].tolist()):
        near = torch.tensor([logit for place, logit in enumerate(logits[line]) if place != line and logit > -torch.inf])
        counts = (hardness * near).exp()
        counts = counts / counts.mean()
        partition = logits[line, line].exp() + (counts * near.exp()).sum()
        total -= weight * float(logits[line, line] - partition.log())
    lever = SoftmaxAgainstNearest(VOCABULARY, **SOFTMAX, hardness=hardness)
    assert value(lever) == pytest.approx(total / float(BATCH[2].sum()), rel=1e-5)


def test_a_pair_without_negatives_has_no_loss_and_no_nan() -> None:
    alone = tuple(column[:1] for column in BATCH)
    assert value(SoftmaxAgainstNearest(VOCABULARY, **SOFTMAX, hardness=1.0), alone) == 0


def test_alpha_by_count_is_alpha_for_tracks_that_are_always_seen() -> None:
    lever = head(AlphaByCount)
    with torch.no_grad():
        lever.get_parameter("log_kappa").fill_(-30.0)
    pairs = torch.tensor([0, 1, 4]), torch.tensor([2, 4, 2])
    assert torch.allclose(lever(*pairs), head()(*pairs), atol=1e-5)


def test_two_tables_score_by_the_second_in_the_second_place() -> None:
    lever = head(TwoTables)
    previous, following = torch.tensor([0, 1, 4]), torch.tensor([2, 4, 2])
    assert not torch.allclose(lever(previous, following), lever(following, previous))
    with torch.no_grad():
        for one, other in ((lever.track_offset, lever.track), (lever.artist_offset, lever.artist)):
            assert one is not None
            assert other is not None
            one.weight.copy_(other.weight)
    assert torch.allclose(lever(previous, following), head()(previous, following), atol=1e-5)


class Walk(LightningModule):
    """A number that goes up by 1 in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()))

    def training_step(self, _: Any) -> Tensor:
        return -self.place

    def test_step(self, _: Any) -> None:
        self.log("test/place", self.place.detach())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def test_averaged_weights_are_what_is_tested(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(torch.zeros(8)), batch_size=1)
    averaged, kept = AveragedWeights(decay=0.9), ModelCheckpoint(tmp_path, save_last=True)
    trainer = Trainer(
        max_epochs=1, callbacks=[averaged, kept], logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(Walk(), data)
    mean = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["place"]
    assert 0 < mean < 8  # and not the last place
    [found] = trainer.test(Walk(), data, ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False)
    assert found["test/place"] == pytest.approx(float(mean))


@pytest.mark.parametrize("weight", [0, 0.5, 1])
def test_a_bias_in_training_counts_less_when_tracks_are_recommended(weight: float) -> None:
    lever = head(ItemBiasInTraining, weight=weight)
    assert lever.item_bias is not None
    with torch.no_grad():
        lever.item_bias.weight.fill_(3.0)
    assert torch.allclose(lever(*BATCH[:2]), head()(*BATCH[:2]) + 0.3, atol=1e-5)
    assert torch.allclose(scores(lever), scores(head()) + 0.3 * weight, atol=1e-5)


def scores(scorer: CosineMix) -> Tensor:
    with torch.no_grad():
        return scorer.query_vectors() @ scorer.item_vectors().T


def test_a_mean_of_two_is_trained_as_each_alone_and_recommends_by_both() -> None:
    lever = head(MeanOfTwo)
    assert isinstance(lever, MeanOfTwo)
    with torch.no_grad():
        one, other = (each(*BATCH[:2]) for each in lever.heads)
        assert not torch.allclose(one, other)
        assert torch.allclose(one, head()(*BATCH[:2]))
        assert torch.allclose(scores(lever)[BATCH[0], BATCH[1]], (one + other) / 2, atol=1e-6)
        assert torch.allclose(lever(*BATCH[:2]), (one + other) / 2)
        both, alone = BCEOfBoth(VOCABULARY, **BCE), BCELoss(VOCABULARY, **BCE)
        each = [alone(scorer, *BATCH) for scorer in lever.heads]
        assert torch.allclose(both(lever, *BATCH), torch.stack(each).mean())
        assert torch.allclose(both.eval()(lever, *BATCH), alone.eval()(lever, *BATCH))


@pytest.mark.parametrize("pairing", ["first", "window"])
def test_pairs_further_apart_are_drawn_less_often_in_training_alone(
    tmp_path: Path, datamodule_of: Callable[..., PairDataModule], pairing: str
) -> None:
    length = 6
    write_tracks(tmp_path, range(length))
    steps = [(user, place) for user in range(400) for place in range(length)]
    lines = [
        event(user, 1000 * number, 100 + place, message="last" if place == length - 1 else "next")
        for number, (user, place) in enumerate(steps)
    ]
    write_lines(tmp_path / "logs" / "data.json", lines)
    plain = datamodule_of(tmp_path, pairing=pairing)
    lever, again = (datamodule_of(tmp_path, DecayingPairs, pairing=pairing, decay=0.5) for _ in range(2))
    for datamodule in (plain, lever, again):
        datamodule.setup()
    apart = lever.pairs["train"].following - lever.pairs["train"].previous
    of_all = np.bincount(plain.pairs["train"].following - plain.pairs["train"].previous)[1:]
    assert np.bincount(apart)[1:] / of_all == pytest.approx(0.5 ** np.arange(len(of_all)), abs=0.06)
    assert again.digest() == lever.digest() != plain.digest()
    assert len(lever.pairs["val"]) == len(plain.pairs["val"])
