"""What convex lacks where rules win: python experiments/rivals/blend.py polimi

On validation sessions alone, with the settings that `study.py` has chosen: ndcg@10 of convex and of rules by what kind
of pair follows, and of a blend, `softmax(score/temperature) + weight·(a rule's share of its track's rules)`. The weight
is chosen on half of the sessions and told on the other half. Writes blend_<data>.md, its numbers as .csv, and
blend_provenance.json beside this file.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64, Int64

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from experiments.rivals.study import SEEDS, chosen, rehearsed, words  # noqa: E402
from experiments.runs import interval, markdown, run_all  # noqa: E402
from src.provenance import provenance  # noqa: E402

HERE, RUNS = Path(__file__).parent, ROOT / "outputs" / "rivals"
WEIGHTS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
BLOCK = 512


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("data", choices=["polimi", "yes"])
    data = asked.parse_args().data
    kept = "callbacks.export=null"
    settings = chosen(data, "convex")
    runs = run_all(
        [
            ("train", RUNS / data / f"blend_{seed}", (*words(data, "convex"), *settings, kept, f"seed={seed}"))
            for seed in SEEDS
        ]
    )
    rows = [row for run, seed in zip(runs, SEEDS, strict=True) for row in compared(data, run, seed)]
    table = pd.DataFrame(rows)
    table.to_csv(HERE / f"blend_{data}.csv", index=False)
    told = []
    for (pairs, model), part in table.groupby(["pairs", "model"], sort=False):
        mean, lower, upper = interval(part["ndcg_at_10"])
        head = {"pairs that follow": pairs, "model": model, "queries": int(part["queries"].mean())}
        recall = part["recall_at_10"].mean()
        told.append(head | {"ndcg@10": mean, "lower": lower, "upper": upper, "recall@10": recall})
    (HERE / f"blend_{data}.md").write_text(markdown(pd.DataFrame(told)) + "\n", encoding="utf-8")
    (HERE / "blend_provenance.json").write_text(json.dumps(provenance(ROOT), indent=2) + "\n", encoding="utf-8")
    print(pd.DataFrame(told).to_string(index=False))
    print("weights:", *table.loc[table["model"] == "blend", "weight"].unique())


def compared(data: str, run: Path, seed: int) -> list[dict[str, object]]:
    """ndcg@10 and recall@10 of the three by kind of pair."""
    datamodule, convex = rehearsed(data, "convex", run)
    _, rules = rehearsed(data, "rules", None)
    rules.on_train_start()
    pairs = datamodule.pairs["val"]
    asked = pairs.previous != pairs.following
    previous, following, session = pairs.previous[asked], pairs.following[asked], pairs.session[asked]
    with torch.no_grad():
        queries, items = convex.scorer.query_vectors().numpy(), convex.scorer.item_vectors().numpy()
    temperature = convex.loss.temperature
    counted = np.asarray(rules._counted[previous.copy(), following.copy()]).ravel() > 0
    artist_of = datamodule.catalog.artist_of
    same = artist_of[previous] == artist_of[following]

    def scores(rows: Int64[np.ndarray, "B"], weight: float) -> Float32[np.ndarray, "B N"]:
        learned: Float32[np.ndarray, "B N"] = queries[rows] @ items.T / temperature
        if not weight:
            return learned
        learned = np.exp(learned - learned.max(axis=1, keepdims=True))
        of_rules = rules._scores(rows).toarray()
        total = of_rules.sum(axis=1, keepdims=True).clip(min=1e-9)
        learned /= learned.sum(axis=1, keepdims=True)
        learned += np.float32(weight) * of_rules / total
        return learned

    ranks = {
        "convex": ranked(partial(scores, weight=0.0), previous, following),
        "rules": rules.ranks(previous, following, lambda _: None),
    }
    blends = {w: ranked(partial(scores, weight=w), previous, following) for w in WEIGHTS}
    choosing = session % 2 == 0
    weight = max(WEIGHTS, key=lambda w: gains(blends[w])[choosing].mean())
    ranks["blend"] = blends[weight]
    kinds = {
        "same artist, heard together in training": same & counted,
        "same artist, otherwise": same & ~counted,
        "other artist, heard together in training": ~same & counted,
        "other artist, otherwise": ~same & ~counted,
        "all": np.ones(len(previous), bool),
    }
    return [
        {"seed": seed, "pairs": name, "model": model, "weight": weight if model == "blend" else np.nan,
         "queries": int((kind & ~choosing).sum()), "ndcg_at_10": gains(rank)[kind & ~choosing].mean(),
         "recall_at_10": (rank[kind & ~choosing] < 11).mean()}
        for name, kind in kinds.items() for model, rank in ranks.items()
    ]  # fmt: skip


def ranked(
    scores: Callable[[Int64[np.ndarray, "B"]], Float32[np.ndarray, "B N"]],
    previous: Int64[np.ndarray, "Q"],
    following: Int64[np.ndarray, "Q"],
) -> Float64[np.ndarray, "Q"]:
    """Mean rank of each `following` among all tracks but its query."""
    ranks = []
    for start in range(0, len(previous), BLOCK):
        query, target = previous[start : start + BLOCK], following[start : start + BLOCK]
        table, lines = scores(query), np.arange(len(query))
        of_target = table[lines, target][:, None]
        table[lines, query] = -np.inf
        ranks.append(1 + (table > of_target).sum(axis=1) + ((table == of_target).sum(axis=1) - 1) / 2)
    return np.concatenate(ranks)


def gains(rank: Float64[np.ndarray, "Q"]) -> Float64[np.ndarray, "Q"]:
    """Discounted gain of a rank, 0 beyond the tenth."""
    return np.where(rank < 11, 1 / np.log2(rank + 1), 0.0)


if __name__ == "__main__":
    main()
