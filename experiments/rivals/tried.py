"""What was tried for convex with the session: python experiments/rivals/tried.py --data polimi --epochs 5 svd

Each variant is trained with a learning rate that falls to 0, and ranks all validation queries once, after
the last epoch. No test query is ranked.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from scipy import sparse
from scipy.sparse.linalg import svds
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.rivals.fitting import composed, means, the_data
from experiments.rivals.spaces import DATA, MODELS
from experiments.studying import Study, sized
from segue.catalog import Vocabulary
from segue.datamodules.batches import BatchSampler, PairDataset
from segue.histories import Histories
from segue.models.contracts import Queries
from segue.models.pair_ranker import PairRanker

STUDY = Study(__file__, __doc__)
BATCH = 1024


def as_it_is(ranker: PairRanker, vocabulary: Vocabulary) -> None:
    """The recipe, with the other schedule."""


def matrix(ranker: PairRanker, vocabulary: Vocabulary, size: float = 0.1) -> None:  # noqa: ARG001
    """A learned matrix, added to the identity, is multiplied with the sum of a session."""
    context: Any = ranker.context
    plain, width = context.queries, max(part.columns.stop for part in ranker.scorer.query_parts().values())
    context.matrix = nn.Parameter(torch.zeros(width, width))

    def queries(*arguments: Any) -> Any:
        of_batch = plain(*arguments)
        summed, rest = of_batch.vectors[:, :width], of_batch.vectors[:, width:]
        return of_batch._replace(vectors=torch.cat([summed + size * (summed @ context.matrix), rest], 1))

    context.queries = queries


def attention(ranker: PairRanker, vocabulary: Vocabulary) -> None:  # noqa: ARG001
    """What one layer of attention reads of the earlier tracks, asked by the newest one, is added to the sum."""
    context: Any = ranker.context
    plain, width = context.queries, max(part.columns.stop for part in ranker.scorer.query_parts().values())
    context.asks, context.reads = (nn.Parameter(torch.randn(width, width) / width**0.5) for _ in range(2))
    context.of_age = nn.Parameter(torch.zeros(context.max_length - 1))

    def queries(scorer: Any, previous: Any, history: Any, share: Any) -> Any:
        of_batch, earlier = plain(scorer, previous, history, share), history[:, 1:]
        rows, place = history.clamp(min=0).unique(return_inverse=True)
        tracks = scorer.query(rows)[:, :width]
        heard = F.embedding(place[:, 1:], tracks)
        logits = torch.einsum("bv,bhv->bh", 8 * tracks[place[:, 0]] @ context.asks, heard)
        logits = (logits + context.of_age[: earlier.shape[1]]).masked_fill(earlier < 0, -1e30)
        weights = logits.softmax(1) * (earlier >= 0)  # none for a session of one track
        read = torch.einsum("bh,bhv->bv", weights, heard) @ context.reads
        summed, rest = of_batch.vectors[:, :width], of_batch.vectors[:, width:]
        return of_batch._replace(vectors=torch.cat([summed + 0.1 * read, rest], 1))

    context.queries = queries


def columns(ranker: PairRanker, vocabulary: Vocabulary, size: float = 0.1) -> None:  # noqa: ARG001
    """Each column of a part has a weight of its own for each age."""
    _weights_by_age(ranker, size, by_column=True)


def ages(ranker: PairRanker, vocabulary: Vocabulary, size: float = 0.1) -> None:  # noqa: ARG001
    """Each age has a free weight in each part, instead of a decay."""
    _weights_by_age(ranker, size, by_column=False)


def _weights_by_age(ranker: PairRanker, size: float, *, by_column: bool) -> None:
    context: Any = ranker.context
    age, parts = torch.arange(context.max_length), ranker.scorer.query_parts()
    widths = {name: part.columns.stop - part.columns.start if by_column else 1 for name, part in parts.items()}
    context.added = nn.ParameterDict(
        {name: nn.Parameter(torch.zeros(context.max_length, width)) for name, width in widths.items()}
    )

    def queries(scorer: Any, previous: Any, history: Any, share: Any) -> Queries:  # noqa: ARG001 - none is known
        rows, place = history.clamp(min=0).unique(return_inverse=True)
        heard = F.embedding(place, scorer.query(rows)) * (history >= 0)[..., None]
        pieces, num, last = [], history.shape[1], 0
        for name, part in scorer.query_parts().items():
            weights = context.decay(name) ** age[:num, None] + size * context.added[name][:num]
            pieces.append(context._normalised(name, (heard[..., part.columns] * weights).sum(1), part.length))
            last = part.columns.stop
        places, recent = torch.arange(len(previous)), history[:, : context.repeats.within]
        return Queries(torch.cat([*pieces, heard[:, 0, last:]], 1), places, previous, recent)

    context.queries = queries


def decays(ranker: PairRanker, vocabulary: Vocabulary) -> None:  # noqa: ARG001
    """Each of four groups of columns of a part has a decay of its own; they start between 0.5 and 0.99."""
    context: Any = ranker.context
    age, parts = torch.arange(context.max_length), ranker.scorer.query_parts()
    first = torch.tensor([0.5, 0.8, 0.95, 0.99]).logit()
    context.logits = nn.ParameterDict({name: nn.Parameter(first.clone()) for name in parts})

    def queries(scorer: Any, previous: Any, history: Any, share: Any) -> Queries:  # noqa: ARG001 - none is known
        rows, place = history.clamp(min=0).unique(return_inverse=True)
        heard = F.embedding(place, scorer.query(rows)) * (history >= 0)[..., None]
        pieces, num, last = [], history.shape[1], 0
        for name, part in scorer.query_parts().items():
            width = part.columns.stop - part.columns.start
            decay = torch.sigmoid(context.logits[name]).repeat_interleave(width // len(first))
            summed = (heard[..., part.columns] * decay ** age[:num, None]).sum(1)
            pieces.append(context._normalised(name, summed, part.length))
            last = part.columns.stop
        places, recent = torch.arange(len(previous)), history[:, : context.repeats.within]
        return Queries(torch.cat([*pieces, heard[:, 0, last:]], 1), places, previous, recent)

    context.queries = queries


def catalogue(ranker: PairRanker, vocabulary: Vocabulary) -> None:
    """The candidates of the softmax are all tracks that follow any track in training, instead of those of a batch."""
    loss: Any = ranker.loss
    rows = torch.from_numpy(vocabulary.next_counts).nonzero()[:, 0]
    place_of = torch.full((len(vocabulary.next_counts) + 1,), -1)  # the last one is that of the row -1
    place_of[rows] = torch.arange(len(rows))

    def forward(scorer: Any, batch: Any, context: Any) -> torch.Tensor:
        found = context.queries(scorer, batch.previous, batch.history, batch.history_share)
        logits = found.vectors @ scorer.item(rows).T / loss.temperature
        left_out = place_of[torch.cat([found.heard, found.previous[:, None]], 1)]
        line = (left_out >= 0).nonzero()[:, 0]
        logits = logits.index_put((line, left_out[left_out >= 0]), torch.tensor(-1e9))
        target, is_heard = place_of[batch.following], (found.heard == batch.following[:, None]).any(1)
        counts = ~is_heard & (batch.previous != batch.following)
        return F.cross_entropy(logits[counts], target[counts])

    loss.forward = forward


def svd(ranker: PairRanker, vocabulary: Vocabulary, window: int = 10) -> None:
    """Tracks start at the singular vectors of their positive pointwise mutual information in windows of sessions."""
    listens, size = vocabulary.listens, len(vocabulary.plays)
    counts = sparse.csr_array((size, size), dtype=np.float32)
    for distance in range(1, window + 1):
        same = listens.session[distance:] == listens.session[:-distance]
        places = listens.track[:-distance][same], listens.track[distance:][same]
        near = sparse.coo_array((np.full(same.sum(), distance**-0.5, np.float32), places), shape=(size, size)).tocsr()
        counts = counts + near + near.T
    total: np.ndarray = np.asarray(counts.sum(1))
    smoothed = total**0.75 / (total**0.75).sum()
    pairs = counts.tocoo()
    row, column = pairs.coords
    information = np.log(pairs.data / (total[row] * smoothed[column]))
    kept = (information > 0) & (row != column)
    positive = sparse.coo_array((information[kept], (row[kept], column[kept])), shape=(size, size)).tocsr()
    parts: Any = ranker.scorer.parts  # of CosineMix alone
    weight = parts["track"].weight.data
    left, values, _ = svds((positive + positive.T) / 2, k=weight.shape[1], rng=np.random.default_rng(0))
    vectors = torch.from_numpy((left * values**0.5).astype(np.float32))
    length = vectors.norm(dim=1, keepdim=True)
    known = (length[:, 0] > 1e-6) & weight.any(1)
    weight[known] = (vectors / length * weight[known].norm(dim=1).mean())[known]


VARIANTS: dict[str, Callable[[PairRanker, Vocabulary], None]] = {
    "as it is": as_it_is, "reversed": as_it_is, "matrix": matrix, "attention": attention, "svd": svd,
    "columns": columns, "ages": ages, "decays": decays, "catalogue": catalogue,
}  # fmt: skip
"""What is changed after the model is built. `reversed` also trains on every session backwards."""


def both_ways(vocabulary: Vocabulary, max_length: int) -> PairDataset:
    """The pairs of every training session, forwards and backwards."""
    listens = vocabulary.listens
    track = np.concatenate([listens.track, listens.track[::-1]])
    session = np.concatenate([listens.session, listens.session[::-1] + listens.session.max() + 1])
    begins = np.append(True, session[1:] != session[:-1])
    place = np.arange(len(track)) - np.flatnonzero(begins)[begins.cumsum() - 1]
    following = np.flatnonzero(place)
    unknown = np.full(len(track), np.nan, np.float32)
    histories = Histories(
        tracks=track,
        played_ratio=unknown,
        last=following - 1,
        length=place[following],
        previous=track[following - 1],
    )
    pairs: Any = SimpleNamespace(
        previous=track[following - 1],
        following=track[following],
        played_ratio=unknown[following],
        listener=np.zeros(len(following), np.int64),
    )
    return PairDataset(pairs, histories, max_length)


def trained(data: str, variant: str, words: list[str], epochs: int, seed: int) -> tuple[PairRanker, float]:
    """Train a variant.

    Args:
        data: name of the data.
        variant: name of the variant.
        words: settings for `train.py`.
        epochs: after which the learning rate is 0.
        seed: of the weights and of the order.

    Returns:
        The model, and the processor time of training in seconds.
    """
    datamodule, _ = the_data(data)
    ours = MODELS["convex, session"]
    with tempfile.TemporaryDirectory() as folder:
        config = composed([*DATA[data], *ours.words, *ours.of_data.get(data, ()), *words], Path(folder))
    torch.manual_seed(seed)
    ranker = instantiate(config.ranker, _convert_="all")(vocabulary=datamodule.vocabulary)
    VARIANTS[variant](ranker, datamodule.vocabulary)
    train, optimizer = datamodule.pairs["train"], ranker.configure_optimizers()
    if variant == "reversed":
        dataset = both_ways(datamodule.vocabulary, ranker.context.max_length)
    else:
        dataset = PairDataset(train, datamodule.histories(train), ranker.context.max_length)
    batches = BatchSampler(num_pairs=len(dataset._columns[0]), batch_size=BATCH, seed=seed)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs * len(batches))
    began = time.process_time()
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        for index in batches:
            optimizer.zero_grad()
            ranker.loss(ranker.scorer, dataset[index], ranker.context).backward()
            optimizer.step()
            falling.step()
    return ranker.eval(), time.process_time() - began


def side_by_side(rankers: list[PairRanker]) -> PairRanker:
    """Models of several seeds as one: their vectors in a row, so that a score is the sum of their scores."""
    first: Any = rankers[0]
    items = torch.cat([ranker.scorer.item_vectors() for ranker in rankers], 1)
    own = [ranker._queries for ranker in rankers]
    first.scorer.item_vectors = lambda: items
    first._queries = lambda *given: own[0](*given)._replace(vectors=torch.cat([of(*given).vectors for of in own], 1))
    return rankers[0]


def main() -> None:
    """Train the variants and print a line for each."""
    parser = STUDY.parser()
    parser.add_argument("variants", nargs="*", default=sized([], ["as it is"]), help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--data", choices=[*DATA], default=sized(None, "world"), required=sized(True, False))
    parser.add_argument("--epochs", type=int, default=sized(8, 1))
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="several: models side by side")
    parser.add_argument("--words", nargs="*", default=[], help="settings for train.py")
    options = STUDY.parse(parser)
    if not options.variants or not {*options.variants} <= {*VARIANTS}:
        parser.error(f"variant must be one of {', '.join(VARIANTS)}, got {', '.join(options.variants) or 'none'}")
    torch.set_num_threads(1)
    datamodule, queries = the_data(options.data)
    for variant in options.variants:
        found = [trained(options.data, variant, options.words, options.epochs, seed) for seed in options.seed]
        with torch.inference_mode():
            ranker = side_by_side([one for one, _ in found]) if len(found) > 1 else found[0][0]
            ranks = ranker.ranks(datamodule.histories(queries["val"]), queries["val"].following, lambda _: None)
        metrics = {**means(ranks), "train_s": sum(seconds for _, seconds in found)}
        if len(found) == 1:
            metrics |= {**ranker.scorer.logged(), **ranker.context.logged()}
        numbers = " ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        how = f"{options.epochs} epochs, seed {' '.join(map(str, options.seed))}:"
        print(options.data, variant, *options.words, how, numbers, flush=True)


if __name__ == "__main__":
    STUDY.run(main)
