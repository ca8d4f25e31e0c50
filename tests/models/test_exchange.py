"""Against one process that has the whole batch: the same steps, whatever part of it each process has."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segue.datamodules.batches import BatchShare
from segue.models import exchange
from segue.models.contracts import PairBatch
from segue.models.losses import BCELoss, MSELoss, SoftmaxLoss
from segue.models.pair_ranker import PairRanker
from segue.models.row_adam import RowAdam
from tests.conftest import make_vocabulary
from tests.models.plain import COSINES, DOT, LAST_TRACK, SESSION, tensors_of

NUM_TRACKS, NUM_LISTENERS = 60, 9
VOCABULARY = make_vocabulary(
    (row // 4 for row in range(NUM_TRACKS)),
    previous_counts=[1] * NUM_TRACKS,
    next_counts=[1 + row for row in range(NUM_TRACKS)],
    listener_counts=[2] * NUM_LISTENERS,
)
LOSSES: dict[str, Any] = {
    "mse": MSELoss,
    "bce": BCELoss,
    "softmax": partial(SoftmaxLoss, temperature=0.2, logq=1.0),
}
LEARNED_SESSION = partial(SESSION, max_length=3, decay="learned", skipped="learned", repeats="never")
ROW_ADAM = partial(RowAdam, lr=0.02, beta2=0.999, eps=1e-8, weight_decay=0.01)
ADAM = partial(torch.optim.Adam, lr=0.02)


class Group:
    """Threads in place of processes: a collective call returns when all have made it."""

    def __init__(self, size: int) -> None:
        self._barrier, self._size, self._tensors = threading.Barrier(size, timeout=120), size, [torch.zeros(())] * size
        self._index = threading.local()

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """The results of `work` for the number of each process."""

        def one(index: int) -> Any:
            self._index.value = index
            try:
                return work(index)
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self._size) as pool:
            return list(pool.map(one, range(self._size)))

    def _all(self, own: Tensor) -> list[Tensor]:
        self._tensors[self._index.value] = own.clone()
        self._barrier.wait()
        tensors = list(self._tensors)
        self._barrier.wait()
        return tensors

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return hasattr(self._index, "value")

    def get_world_size(self) -> int:
        return self._size

    def all_reduce(self, own: Tensor) -> None:
        own.copy_(torch.stack(self._all(own)).sum(0))

    def all_gather(self, tensors: list[Tensor], own: Tensor) -> None:
        for tensor, of_process in zip(tensors, self._all(own), strict=True):
            assert tensor.shape == of_process.shape
            tensor.copy_(of_process)


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    group = Group(3)
    monkeypatch.setattr(exchange, "dist", group)
    return group


def ranker(scorer: Any, loss: str, context: Any, optimizer: Any) -> PairRanker:
    torch.manual_seed(0)
    return PairRanker(
        vocabulary=VOCABULARY,
        scorer=scorer,
        loss=LOSSES[loss],
        context=context,
        optimizer=optimizer,
        scheduler=None,
        monitor="val/loss",
    )


def batches() -> list[PairBatch]:
    """Full ones and smaller ones: the smallest has one pair. Some shares are unknown, in one batch all."""
    generator = torch.Generator().manual_seed(1)
    drawn = []
    for size in (12, 11, 1, 5, 2):
        rows = torch.randint(NUM_TRACKS, (2, size), generator=generator)
        share = torch.rand(size, generator=generator)
        share[share < (1.0 if size == 2 else 0.2)] = torch.nan
        history = torch.randint(-1, NUM_TRACKS, (size, 3), generator=generator)
        history[:, 0] = rows[0]
        listener = torch.randint(NUM_LISTENERS, (size,), generator=generator)
        heard = torch.rand(size, 3, generator=generator).masked_fill(history < 0, torch.nan)
        drawn.append(PairBatch(rows[0], rows[1], share, listener, history, heard))
    return drawn


def trained(model: PairRanker, share: BatchShare | None) -> dict[str, Tensor]:
    """The weights after a step for each batch, and the losses of the batches."""
    configured = model.configure_optimizers()
    optimizer = configured if isinstance(configured, torch.optim.Optimizer) else configured["optimizer"]
    for batch in batches():
        optimizer.zero_grad()
        part = slice(None) if share is None else share(len(batch.previous))
        model.training_step(PairBatch(*(column[part] for column in batch)), 0).backward()
        model.on_before_optimizer_step(optimizer)
        optimizer.step()
    losses = torch.stack([loss for loss, _ in model._trained])
    return {**tensors_of(model), "losses": losses}


@pytest.mark.parametrize(
    ("scorer", "loss", "context", "optimizer"),
    [
        (partial(COSINES, alpha="learned", item_bias=True), "bce", LAST_TRACK, ROW_ADAM),
        (partial(COSINES, alpha="learned", item_bias=True), "softmax", LEARNED_SESSION, ROW_ADAM),
        (DOT, "mse", LEARNED_SESSION, ROW_ADAM),
        (DOT, "softmax", LAST_TRACK, ROW_ADAM),
        (partial(COSINES, alpha=0.9), "bce", LEARNED_SESSION, ADAM),
        (partial(COSINES, alpha="learned"), "softmax", LAST_TRACK, ADAM),
    ],
)
def test_processes_take_the_steps_of_one(group: Group, scorer: Any, loss: str, context: Any, optimizer: Any) -> None:
    size, scorer = group.get_world_size(), partial(scorer, dim=8)
    alone = trained(ranker(scorer, loss, context, optimizer), None)
    models = [ranker(scorer, loss, context, optimizer) for _ in range(size)]
    together = group.run(
        lambda index: trained(models[index], BatchShare(index=index, count=size, groups=models[index].loss.groups))
    )
    for name, weights in alone.items():
        torch.testing.assert_close(together[0][name], weights, rtol=2e-4, atol=2e-5, msg=f"{name} differs")
        for other in together[1:]:
            assert torch.equal(other[name], together[0][name]), name


def test_what_a_step_sends_does_not_grow_with_the_catalogue(group: Group) -> None:
    rows, width = torch.tensor([[1, 5, 5], [0, 2, 7], [3, 1, 1]]), 4

    def bytes_sent(num_rows: int) -> list[int]:
        def work(index: int) -> int:
            table, scale = nn.Embedding(num_rows, width, sparse=True), nn.Parameter(torch.ones(()))
            (table(rows[index]).sum() * scale).backward()
            return exchange.exchange_gradients([*table.parameters(), scale])

        return group.run(work)

    most_rows = 3  # of the second process, whose rows differ; the others send as many
    each = 2 * 8 + 4 + most_rows * (8 + 4 * width)  # sizes, the gradient of the scale, row numbers and gradients
    assert bytes_sent(10) == bytes_sent(10_000) == [each] * 3


def test_a_parameter_without_a_gradient_in_any_process_keeps_none(group: Group) -> None:
    def work(_: int) -> nn.Parameter:
        unused, used = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        used.sum().backward()
        exchange.exchange_gradients([unused, used])
        assert used.grad is not None
        assert used.grad.tolist() == [3, 3]
        return unused

    assert all(unused.grad is None for unused in group.run(work))
