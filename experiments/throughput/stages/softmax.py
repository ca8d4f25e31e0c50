"""Training with the softmax loss on as many tracks and pairs as `datamodule=yes` has, in batches of 1024.

Tracks are as popular as there: of the 1024 next tracks of a batch, about 740 are distinct. The rival is the
plain formula, which training used up to commit fccb4da: three B×B masks, autograd's gradients, `torch.dropout` and
`F.normalize`.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.throughput.race import Contender, Stage, Work
from experiments.throughput.stages.training import draw_pairs, fit, load_columns, save_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from segue.models.contracts import PairBatch, Scorer
    from segue.models.pair_ranker import PairRanker

NUM_TRACKS, NUM_ARTISTS, NUM_PAIRS, BATCH_SIZE = 3168, 1326, 108_000, 1024
WIDTH, TEMPERATURE = 256, 0.15
WORDS = ["datamodule=yes", "context=last", "model=convex", f"datamodule.batch_size={BATCH_SIZE}"]


def make(folder: Path, small: bool) -> None:
    num_pairs = NUM_PAIRS // 4 if small else NUM_PAIRS
    arrays = draw_pairs(num_tracks=NUM_TRACKS, num_artists=NUM_ARTISTS, num_pairs=num_pairs, skew=1.0)
    save_columns(folder, arrays)


def plain_softmax(scorer: "Scorer", batch: "PairBatch", log_q: "Tensor") -> "Tensor":
    """The formula of `SoftmaxLoss` with a logit for each pair and each next track of the batch."""
    previous, following = batch.previous, batch.following
    logits = scorer.query(previous) @ scorer.item(following).T / TEMPERATURE - log_q[following]
    hits = ((following[:, None] == following) | (previous[:, None] == following)).fill_diagonal_(False)
    weight = batch.played_ratio.nan_to_num(nan=1.0) * (previous != following)
    logits = logits.masked_fill(hits, -float("inf"))
    return -(logits.log_softmax(dim=1).diagonal() * weight).sum() / weight.sum().clamp(min=1e-9)


def whole_steps(folder: Path, small: bool) -> Work:  # noqa: ARG001 - the data have the size
    """Segue, as in train.py: convex with the recipe for playlists."""
    return fit(load_columns(folder), WORDS)


def plain_steps(folder: Path, small: bool) -> Work:  # noqa: ARG001
    """The same run with the plain formula, `torch.dropout` and `F.normalize`."""
    return fit(load_columns(folder), WORDS, replace=_make_plain)


def _make_plain(ranker: "PairRanker") -> None:
    import torch
    from torch import nn
    from torch.nn import functional as F

    from segue.models import heads

    class PlainLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_q: Any = ranker.loss.log_q

        def forward(self, scorer: Any, batch: Any, context: Any) -> torch.Tensor:  # noqa: ARG002 - a track is its query
            return plain_softmax(scorer, batch, self.log_q)

    ranker.loss = PlainLoss()  # type: ignore[assignment]  # only its forward is used
    ranker.scorer.dropout = nn.Dropout(0.2)
    vars(heads)["unit"] = lambda vectors, _squared: F.normalize(vectors, dim=-1)  # this recipe shrinks nothing


def _batches(folder: Path) -> "list[PairBatch]":
    import torch

    from segue.models.contracts import PairBatch

    previous, following, share, _ = (torch.from_numpy(column) for column in load_columns(folder))
    columns = (previous, following, share, torch.zeros_like(previous))
    return [
        PairBatch.without_history(*parts)
        for parts in zip(*(column.split(BATCH_SIZE) for column in columns), strict=True)
    ]


def _vectors() -> "Scorer":
    """A scorer of vectors that are given: gradients end there."""
    import torch

    from segue.models.contracts import Scorer

    class Given(Scorer):
        def __init__(self) -> None:
            super().__init__(NUM_TRACKS)
            self.vectors = torch.randn(NUM_TRACKS, WIDTH) / WIDTH**0.5

        def query(self, rows: torch.Tensor) -> torch.Tensor:
            vectors: torch.Tensor = self.vectors[rows].requires_grad_()
            return vectors

        def item(self, rows: torch.Tensor) -> torch.Tensor:
            return self.query(rows)

    return Given()


def _each_batch(folder: Path, loss: "Callable[[Scorer, PairBatch], Tensor]") -> Work:
    scorer, batches = _vectors(), _batches(folder)

    def work() -> float:
        for batch in batches:
            loss(scorer, batch).backward()
        return sum(len(batch.previous) for batch in batches)

    return work


def our_loss(folder: Path, small: bool) -> Work:  # noqa: ARG001
    """`SoftmaxLoss`, forward and backward."""
    import torch

    from segue.catalog import example_vocabulary
    from segue.models.contexts import LastTrack
    from segue.models.losses import SoftmaxLoss

    vocabulary = example_vocabulary()
    loss = SoftmaxLoss(vocabulary, temperature=TEMPERATURE, logq=1.0)
    loss.log_q = torch.nn.Buffer(_log_q(folder))
    context = LastTrack(vocabulary, (), learns=True)
    return _each_batch(folder, partial(loss, context=context))


def plain_loss(folder: Path, small: bool) -> Work:  # noqa: ARG001
    """The plain formula, forward and backward."""
    return _each_batch(folder, partial(plain_softmax, log_q=_log_q(folder)))


def _log_q(folder: Path) -> "Tensor":
    import torch

    counts = torch.bincount(torch.from_numpy(load_columns(folder)[1]), minlength=NUM_TRACKS).clamp(min=1)
    return (counts / counts.sum()).log()


def products(folder: Path, small: bool, *, distinct: bool) -> Work:  # noqa: ARG001
    """One product for the logits and one for each gradient, through an autograd function as in `SoftmaxLoss`."""
    import torch

    class Products(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
            logits = query @ item.T
            ctx.save_for_backward(logits @ item, logits.T @ query)
            return logits[0, 0]

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
            of_query, of_item = ctx.saved_tensors
            return gradient * of_query, gradient * of_item

    three_products: Any = Products.apply

    def loss(scorer: "Scorer", batch: "PairBatch") -> torch.Tensor:
        rows = (batch.previous.unique(), batch.following.unique()) if distinct else batch[:2]
        value: torch.Tensor = three_products(scorer.query(rows[0]), scorer.item(rows[1]))
        return value

    return _each_batch(folder, loss)


STAGES = [
    Stage(
        name="softmax loss",
        unit="pairs",
        make=make,
        ours=Contender(name="SoftmaxLoss", prepare=our_loss),
        rivals=[Contender(name="the plain formula", prepare=plain_loss)],
        limits=[Contender(name="products of distinct tracks", prepare=partial(products, distinct=True), at_least=0.8)],
    ),
    Stage(
        name="training, softmax",
        unit="pairs",
        make=make,
        ours=Contender(name="train.py", prepare=whole_steps),
        rivals=[Contender(name="the plain formula", prepare=plain_steps, at_least=2.5)],
        limits=[Contender(name="products of all pairs", prepare=partial(products, distinct=False))],
    ),
]
