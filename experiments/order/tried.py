"""Which loss is best for a GRU, and which block for self-attention? On validation queries; no test query is ranked.

    python experiments/order/tried.py               each variant that tried.csv does not have yet; then tried.md
    python experiments/order/tried.py --most 1      at most one training now; the next call continues
    python experiments/order/tried.py --whole 2     the blocks of self-attention to their end with so many seeds, too

Each variant is trained on whole sessions of `yes` with the settings of `conf/`, for two epochs, with one seed; blocks
of self-attention also until five epochs are not better than the best one. One line of tried.csv is one epoch, one of
whole.csv a whole training.

B pairs, K candidates.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.rivals.fitting import composed
from experiments.studying import Study, append_rows, available, read_rows, sized
from segue.callbacks.run_context import RunContext
from segue.catalog import Vocabulary
from segue.models.pair_ranker import PairRanker
from segue.reports.markdown import table
from segue.statistics.ranking import ndcg_at

STUDY = Study(__file__, __doc__)
RESULTS, WHOLE = STUDY.folder / "tried.csv", STUDY.folder / "whole.csv"
DATA, QUERIES, EPOCHS, MOST_EPOCHS = sized(("yes", 5_000, 2, 50), ("situnes", 50, 1, 1))
PATIENCE = 5
"""Epochs that may follow the best one of a whole training, as in `conf/callbacks/default.yaml`."""
WORDS = sized((), ("recipe=playlists", "model.dim=16", "context.encoder.dim=16"))
SAMPLED, POWER, REGULARISED = 2048, 0.75, 1.0
"""Of the author of GRU4Rec: tracks that are drawn for a batch, the power of their plays, and λ of BPR-max."""
HEADS_OF_BLOCK, WIDER = 1, 2
"""Heads of the attention of a plain block, and the width of its feed-forward part, relative to the encoder."""


def as_it_is(ranker: PairRanker, vocabulary: Vocabulary) -> None:
    """The default: a softmax over the next tracks of the batch with logQ correction; blocks of LiGR."""


def bpr_max(target: Tensor, others: Tensor) -> Tensor:
    """BPR-max of each pair, with the penalty of scores (Hidasi and Karatzoglou, CIKM 2018).

    Args:
        target: score of the next track, shape B.
        others: scores of other tracks, shape B × K; −∞ where one is the next track.
    """
    share = others.softmax(1)
    found = (share * torch.sigmoid(target[:, None] - others)).sum(1)
    return REGULARISED * (share * others.clamp(min=-1e4) ** 2).sum(1) - (found + 1e-9).log()


def cross_entropy(target: Tensor, others: Tensor) -> Tensor:
    """Cross entropy of each pair; see `bpr_max`."""
    return torch.logaddexp(target, others.logsumexp(1)) - target


def against(
    ranker: PairRanker,
    vocabulary: Vocabulary,
    *,
    compare: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    logq: float = 0.0,
    is_sampled: bool = True,
) -> None:
    """The next track is held against tracks drawn by their plays, the same for all pairs of a batch, or all tracks."""
    loss: Any = ranker.loss
    chance = torch.from_numpy(vocabulary.next_counts).double().clamp(min=1) ** POWER
    of_log = (logq * (chance / chance.sum()).log()).float()
    drawn = torch.Generator().manual_seed(1)

    def forward(scorer: Any, batch: Any, context: Any) -> Tensor:
        found = context.queries(scorer, batch.previous, batch.history, batch.history_share)
        queries, following = found.vectors[found.of_pair] / loss.temperature, batch.following
        rows = torch.arange(len(chance))
        if is_sampled:
            rows = torch.multinomial(chance, SAMPLED, replacement=True, generator=drawn)
        others = queries @ scorer.item(rows).T - of_log[rows]
        is_left_out = (rows == following[:, None]) | (rows == batch.previous[:, None])
        target = torch.linalg.vecdot(queries, scorer.item(following)) - of_log[following]
        each = compare(target, others.masked_fill(is_left_out, -torch.inf))
        return each[batch.previous != following].mean()

    loss.forward = forward


def plain_block(ranker: PairRanker, vocabulary: Vocabulary, *, is_first: bool) -> None:  # noqa: ARG001
    """A block of torch instead of LiGR: attention and a feed-forward part, each normalised before it or after it."""
    encoder: Any = ranker.context.encoder
    dim = len(encoder.numbers["output"])
    encoder.block = nn.TransformerEncoderLayer(
        dim, HEADS_OF_BLOCK, WIDER * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=is_first
    )

    def read(tracks: Tensor, numbers: dict[str, Tensor]) -> Tensor:
        length = tracks.shape[1]
        values = tracks @ numbers["input"] + numbers["place"][:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        return torch.as_tensor(encoder.block(values, src_mask=mask, is_causal=True))

    encoder.read = read


class Variant(NamedTuple):
    """What is trained.

    Attributes:
        model: value of `model=`.
        change: what is changed after the model is built.
    """

    model: str
    change: Callable[[PairRanker, Vocabulary], None] = as_it_is


VARIANTS = {
    "softmax of the batch, logQ": Variant("gru4rec"),
    "sampled, BPR-max": Variant("gru4rec", partial(against, compare=bpr_max)),
    "sampled, cross entropy": Variant("gru4rec", against),
    "sampled, cross entropy, logQ": Variant("gru4rec", partial(against, logq=1.0)),
    "all tracks, cross entropy": Variant("gru4rec", partial(against, is_sampled=False)),
    "plain, normalised before": Variant("sasrec", partial(plain_block, is_first=True)),
    "LiGR": Variant("sasrec"),
    "plain, normalised after": Variant("sasrec", partial(plain_block, is_first=False)),
}
BLOCKS = ("plain, normalised before", "LiGR")
"""Variants that are trained to their end."""


def ndcg(ranker: Any, datamodule: Any, queries: Any) -> float:
    """Validation ndcg@10 by the best of the ways to rank tracks already heard."""
    histories, repeats = datamodule.histories(queries), ranker.context.repeats
    with torch.inference_mode():
        ranks = repeats.tried(lambda: ranker.ranks(histories, queries.following, lambda _: None))
    return max(float(np.mean(ndcg_at(of, 10))) for of in ranks.values())


def epochs(name: str, seed: int) -> Iterator[tuple[float, float]]:
    """Train a variant: validation ndcg@10 and processor time after each epoch."""
    variant = VARIANTS[name]
    with tempfile.TemporaryDirectory() as folder:
        words = [f"datamodule={DATA}", f"model={variant.model}", f"seed={seed}", *WORDS]
        config = composed([*words, f"callbacks.ranking.max_val_queries={QUERIES}"], STUDY.folder / folder)
        datamodule = instantiate(config.datamodule, _convert_="all")
        datamodule.prepare_data()
        datamodule.setup()
    queries = instantiate(config.callbacks.ranking, _convert_="all")(RunContext(datamodule=datamodule)).queries["val"]
    torch.manual_seed(seed)
    ranker = instantiate(config.ranker, _convert_="all")(vocabulary=datamodule.vocabulary)
    variant.change(ranker, datamodule.vocabulary)
    found = ranker.configure_optimizers()
    optimizer = found["optimizer"] if isinstance(found, dict) else found
    loader = datamodule.train_dataloader()
    for epoch in range(MOST_EPOCHS):
        began = time.process_time()
        loader.sampler.set_epoch(epoch)
        ranker.train()
        for batch in loader:
            optimizer.zero_grad()
            ranker.loss(ranker.scorer, batch, ranker.context).backward()
            optimizer.step()
        seconds = time.process_time() - began
        value = ndcg(ranker.eval(), datamodule, queries)
        print(name, seed, epoch + 1, f"{value:.4f}", f"{seconds:.0f} s", flush=True)
        yield value, seconds


def run(name: str) -> None:
    """Train a variant for EPOCHS, and add its lines."""
    variant, lines = VARIANTS[name], list[dict[str, Any]]()
    for epoch, (value, seconds) in enumerate(islice(epochs(name, 1), EPOCHS)):
        line = {"variant": name, "model": variant.model, "epoch": epoch + 1, "val_ndcg_at_10": value}
        lines.append({**line, "cpu_s": round(seconds, 1), "commit": STUDY.commit()})
    append_rows(RESULTS, lines)


def run_whole(name: str, seed: int) -> None:
    """Train a variant until PATIENCE epochs are not better than the best one, and add a line."""
    values, spent_s = [0.0], 0.0
    for value, seconds in epochs(name, seed):
        values.append(value)
        spent_s += seconds
        if len(values) - 1 - int(np.argmax(values)) >= PATIENCE:
            break
    best = int(np.argmax(values))
    line = {"variant": name, "seed": seed, "epoch": best, "epochs": len(values) - 1, "val_ndcg_at_10": values[best]}
    append_rows(WHOLE, [{**line, "cpu_s": round(spent_s), "commit": STUDY.commit()}])


def report() -> None:
    """Write tried.md."""
    lines = pd.DataFrame(read_rows(RESULTS))
    rows = []
    for name, variant in VARIANTS.items():
        if len(own := lines[lines["variant"] == name]):
            values = [f"{float(value):.4f}" for value in own["val_ndcg_at_10"]]
            rows.append([variant.model, name, *values, f"{own['cpu_s'].astype(float).mean():.0f}"])
    head = ["model", "variant", *(f"epoch {nth}" for nth in range(1, EPOCHS + 1)), "CPU of an epoch, s"]
    text = [f"Validation ndcg@10 of {DATA}, one seed.", "", *table(head, rows, "ll" + "r" * (EPOCHS + 1))]
    rows = [
        [
            *(row[name] for name in ("variant", "seed", "epoch", "epochs")),
            f"{float(row['val_ndcg_at_10']):.4f}",
            row["cpu_s"],
        ]
        for row in read_rows(WHOLE)
    ]
    head = ["variant", "seed", "best epoch", "epochs", "validation ndcg@10", "CPU of the training, s"]
    text += ["", "Whole trainings of self-attention.", "", *table(head, rows, "lrrrrr")]
    STUDY.write_table("tried.md", text)


def main() -> None:
    """Train what is missing, then write the tables."""
    parser = STUDY.parser()
    parser.add_argument("--most", type=int, default=99, help="train at most so many models now")
    parser.add_argument("--model", choices=["gru4rec", "sasrec"], help="the variants of one model")
    parser.add_argument("--whole", type=int, default=sized(0, 1), help="seeds of whole trainings")
    options = STUDY.parse(parser)
    available(DATA)
    torch.set_num_threads(1)
    done = {(row["variant"], 0) for row in read_rows(RESULTS)}
    done |= {(row["variant"], int(row["seed"])) for row in read_rows(WHOLE)}
    wanted = [(name, 0) for name, variant in VARIANTS.items() if options.model in (None, variant.model)]
    whole = [(name, seed) for seed in range(1, 1 + options.whole) for name in BLOCKS]
    for name, seed in [one for one in [*whole, *wanted] if one not in done][: options.most]:
        if seed:
            run_whole(name, seed)
        else:
            run(name)
    report()


if __name__ == "__main__":
    STUDY.run(main)
