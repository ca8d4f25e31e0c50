"""Against `torch.optim.Adam` over whole tables, the slow way to the same weights."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.models.contracts import PairBatch
from segue.models.heads import TwoTableDot
from segue.models.losses import BCELoss, MSELoss, SoftmaxLoss
from segue.models.pair_ranker import PairRanker
from segue.models.row_adam import RowAdam
from tests.conftest import make_vocabulary
from tests.models.plain import COSINES, DOT, LAST, LAST_TRACK, tensors_of

ROW_ADAM = partial(RowAdam, lr=0.02, beta2=0.999, eps=1e-8, weight_decay=0.0)
NUM_TRACKS, NUM_LISTENERS = 200, 30
SEEN = [int(row != 7) for row in range(NUM_TRACKS)]
VOCABULARY = make_vocabulary(
    (row // 4 for row in range(NUM_TRACKS)),
    previous_counts=SEEN,
    next_counts=SEEN,
    listener_counts=[2] * NUM_LISTENERS,
)
SCORERS: dict[str, Any] = {
    "convex": partial(COSINES, dim=8, alpha=0.9),
    "learned": partial(COSINES, dim=8, alpha="learned", item_bias=True, order_std=0.1),
    "contextual": partial(DOT, dim=8),
}
LOSSES: dict[str, Any] = {
    "mse": MSELoss,
    "bce": BCELoss,
    "softmax": partial(SoftmaxLoss, temperature=0.2, logq=1.0),
}


def ranker(scorer: str, loss: str, optimizer: Callable[..., Any]) -> PairRanker:
    torch.manual_seed(0)
    return PairRanker(
        vocabulary=VOCABULARY,
        scorer=SCORERS[scorer],
        loss=LOSSES[loss],
        context=LAST_TRACK,
        optimizer=optimizer,
        scheduler=None,
        monitor="val/loss",
    )


def batches(num: int) -> list[PairBatch]:
    """Small batches of many tracks: most rows occur rarely, some twice in a batch, row 7 never."""
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(num, 2, 12, generator=generator) ** 2 * (NUM_TRACKS - 8) + 8
    listeners = torch.randint(NUM_LISTENERS, (num, 12), generator=generator)
    return [
        PairBatch.without_history(previous, following, torch.rand(12, generator=generator), listener)
        for (previous, following), listener in zip(draws.long(), listeners, strict=True)
    ]


def trained(model: PairRanker, optimizer: Any, num_steps: int = 60) -> dict[str, Tensor]:
    for step, batch in enumerate(batches(num_steps)):
        optimizer.param_groups[0]["lr"] = 0.02 / (1 + step // 20)  # a scheduler's doing
        optimizer.zero_grad()
        model.loss(model.scorer, batch, LAST).backward()
        optimizer.step()
    return {name: weights.clone() for name, weights in tensors_of(model).items()}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scorer", SCORERS)
def test_its_steps_equal_adam_without_momentum(scorer: str, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.models.row_adam._CHUNK_SIZE", 5 * 8)
    fast = ranker(scorer, loss, ROW_ADAM)
    slow = ranker(scorer, loss, partial(torch.optim.Adam, lr=0.02, betas=(0.0, 0.999)))
    began = {name: weights.clone() for name, weights in tensors_of(slow).items()}
    ended, expected = (trained(model, model.configure_optimizers()) for model in (fast, slow))
    moved = [(expected[name] - began[name]).abs().max() for name, _ in slow.named_parameters()]
    assert min(moved) > 0.01
    torch.testing.assert_close(ended, expected, rtol=1e-3, atol=2e-4)


def test_a_row_outside_the_batch_does_not_change() -> None:
    model = ranker("contextual", "mse", partial(ROW_ADAM, weight_decay=0.1))
    assert isinstance(model.scorer, TwoTableDot)
    before = model.scorer.context.weight.detach().clone()
    trained(model, model.configure_optimizers())
    shown = torch.zeros(NUM_TRACKS, dtype=torch.bool)
    for previous, *_ in batches(60):
        shown[previous] = True
    still = (model.scorer.context.weight == before).all(1)
    assert torch.equal(still, ~shown)


def test_weight_decay_equals_adam_on_the_rows_of_a_batch() -> None:
    torch.manual_seed(0)
    weights = torch.randn(5, 3)
    fast, slow = nn.Embedding.from_pretrained(weights.clone(), freeze=False, sparse=True), weights.clone()
    slow.requires_grad_()
    row_adam = RowAdam(fast.parameters(), lr=0.1, beta2=0.9, eps=1e-8, weight_decay=0.5)
    adam = torch.optim.Adam([slow], lr=0.1, betas=(0.0, 0.9), weight_decay=0.5)
    rows = torch.arange(5)
    for _ in range(4):
        for table, optimizer in ((fast, row_adam), (lambda rows: slow[rows], adam)):
            optimizer.zero_grad()
            (table(rows) ** 3).sum().backward()
            optimizer.step()
    torch.testing.assert_close(fast.weight, slow)


def test_its_state_is_restored_from_a_checkpoint() -> None:
    whole = ranker("convex", "bce", ROW_ADAM)
    optimizer = whole.configure_optimizers()
    trained(whole, optimizer)
    file = io.BytesIO()
    torch.save([whole.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed = ranker("convex", "bce", ROW_ADAM)
    resumed.load_state_dict(weights)
    optimizer_again = resumed.configure_optimizers()
    optimizer_again.load_state_dict(state)
    ended, again = trained(whole, optimizer), trained(resumed, optimizer_again)
    assert all(torch.equal(ended[name], again[name]) for name in ended)


@pytest.mark.parametrize("mode", ["default", "warn", "error"])
def test_a_step_keeps_the_determinism_setting_and_gives_the_same_weights(mode: str) -> None:
    before = torch.get_deterministic_debug_mode()
    expected = trained(plain := ranker("convex", "bce", ROW_ADAM), plain.configure_optimizers())
    torch.set_deterministic_debug_mode(mode)
    try:
        asked = torch.get_deterministic_debug_mode()
        ended = trained(model := ranker("convex", "bce", ROW_ADAM), model.configure_optimizers())
        assert torch.get_deterministic_debug_mode() == asked
    finally:
        torch.set_deterministic_debug_mode(before)
    assert all(torch.equal(ended[name], expected[name]) for name in ended)


def fitted(model: PairRanker, datamodule: PairDataModule, **settings: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    trainer = Trainer(max_epochs=6, enable_checkpointing=False, num_sanity_val_steps=0, **quiet, **settings)
    trainer.fit(model, datamodule)
    return trainer


def test_clipping_gradients_is_refused_before_training_with_the_remedy(
    datamodule_of: Callable[..., PairDataModule], ring_logs: Path
) -> None:
    datamodule = datamodule_of(ring_logs)
    datamodule.setup()
    model = PairRanker(
        vocabulary=datamodule.vocabulary,
        scorer=SCORERS["convex"],
        loss=MSELoss,
        context=LAST_TRACK,
        optimizer=ROW_ADAM,
        scheduler=None,
        monitor="val/loss",
    )
    with pytest.raises(InputError, match=r"trainer.gradient_clip_val needs dense gradients; use optimizer=adam"):
        fitted(model, datamodule, gradient_clip_val=1.0)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"optimizer.beta2 must be .* at most 0.999999999, got 1"):
        ranker("convex", "mse", partial(ROW_ADAM, beta2=1.0))
