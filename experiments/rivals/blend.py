"""What convex lacks where rules win: python experiments/rivals/blend.py polimi

On validation sessions alone, with the settings that `study.py` has chosen: ndcg@10 of convex and of rules by what kind
of pair follows, among all tracks and among those by the artist of the track before alone; of convex with that artist
lifted by a constant; and of a blend, `softmax(score/temperature) + weight·(a rule's share of its track's rules)`. The
constant and the weight are chosen on half of the sessions and told on the other half. Writes blend_<data>.md, its
numbers as .csv, and blend_provenance.json beside this file.
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
from experiments.runs import BEGUN, interval, markdown, run_all  # noqa: E402

HERE, RUNS = Path(__file__).parent, ROOT / "outputs" / "rivals"
WEIGHTS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
LIFTS = (0.0, 0.5, 1.0, 1.5)
"""Added to the logit of every track by the artist of the track before."""
BLOCK = 512
Scores = Callable[[Int64[np.ndarray, "B"]], np.ndarray]
"""Of B queries, for all tracks."""


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
        others = {"recall@10": part["recall_at_10"].mean(), "ndcg@10 of the artist's": part["ndcg_of_artist"].mean()}
        told.append(head | {"ndcg@10": mean, "lower": lower, "upper": upper} | others)
    (HERE / f"blend_{data}.md").write_text(markdown(pd.DataFrame(told)) + "\n", encoding="utf-8")
    (HERE / "blend_provenance.json").write_text(json.dumps(BEGUN, indent=2) + "\n", encoding="utf-8")
    print(pd.DataFrame(told).to_string(index=False))
    for model in ("lifted", "blend"):
        print(model, "by", *table.loc[table["model"] == model, "weight"].unique())


def compared(data: str, run: Path, seed: int) -> list[dict[str, object]]:
    """ndcg@10 and recall@10 of the four by kind of pair."""
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

    def lifted(by: float, rows: Int64[np.ndarray, "B"]) -> Float32[np.ndarray, "B N"]:
        learned: Float32[np.ndarray, "B N"] = queries[rows] @ items.T / temperature
        if by:
            learned += np.float32(by) * (artist_of[rows][:, None] == artist_of)
        return learned

    def blended(weight: float, rows: Int64[np.ndarray, "B"]) -> Float32[np.ndarray, "B N"]:
        learned: Float32[np.ndarray, "B N"] = lifted(0.0, rows)
        learned = np.exp(learned - learned.max(axis=1, keepdims=True))
        counted = rules._scores(rows).toarray()
        total = counted.sum(axis=1, keepdims=True).clip(min=1e-9)
        learned /= learned.sum(axis=1, keepdims=True)
        learned += np.float32(weight) * counted / total
        return learned

    def of_rules(rows: Int64[np.ndarray, "B"]) -> Float64[np.ndarray, "B N"]:
        counted: Float64[np.ndarray, "B N"] = rules._scores(rows).toarray().astype(np.float64)
        counted += datamodule.vocabulary.plays * 1e-9  # where scores are equal, the track played more comes first
        return counted

    choosing = session % 2 == 0
    models: dict[str, Scores] = {"convex": partial(lifted, 0.0), "rules": of_rules}
    weights = {}
    for name, make, choices in (("lifted", lifted, LIFTS), ("blend", blended, WEIGHTS)):
        found = {w: gains(ranked(partial(make, w), previous, following))[choosing].mean() for w in choices}
        weights[name] = max(choices, key=lambda w, found=found: found[w])
        models[name] = partial(make, weights[name])
    ranks = {name: ranked(scores, previous, following) for name, scores in models.items()}
    of_artist = {name: ranked(scores, previous, following, artist_of) for name, scores in models.items()}
    kinds = {
        "same artist, heard together in training": same & counted,
        "same artist, otherwise": same & ~counted,
        "other artist, heard together in training": ~same & counted,
        "other artist, otherwise": ~same & ~counted,
        "all": np.ones(len(previous), bool),
    }
    return [
        {"seed": seed, "pairs": name, "model": model, "weight": weights.get(model, np.nan),
         "queries": int((kind & ~choosing).sum()), "ndcg_at_10": gains(rank)[kind & ~choosing].mean(),
         "recall_at_10": (rank[kind & ~choosing] < 11).mean(),
         "ndcg_of_artist": gains(of_artist[model])[kind & ~choosing].mean() if same[kind].all() else np.nan}
        for name, kind in kinds.items() for model, rank in ranks.items()
    ]  # fmt: skip


def ranked(
    scores: Scores,
    previous: Int64[np.ndarray, "Q"],
    following: Int64[np.ndarray, "Q"],
    artist_of: Int64[np.ndarray, "N"] | None = None,
) -> Float64[np.ndarray, "Q"]:
    """Mean rank of each `following` among all tracks but its query, or among those by the query's artist."""
    ranks = []
    for start in range(0, len(previous), BLOCK):
        query, target = previous[start : start + BLOCK], following[start : start + BLOCK]
        table, lines = scores(query), np.arange(len(query))
        of_target = table[lines, target][:, None]
        if artist_of is not None:
            table[artist_of[query][:, None] != artist_of] = -np.inf
        table[lines, query] = -np.inf
        ranks.append(1 + (table > of_target).sum(axis=1) + ((table == of_target).sum(axis=1) - 1) / 2)
    return np.concatenate(ranks)


def gains(rank: Float64[np.ndarray, "Q"]) -> Float64[np.ndarray, "Q"]:
    """Discounted gain of a rank, 0 beyond the tenth."""
    return np.where(rank < 11, 1 / np.log2(rank + 1), 0.0)


if __name__ == "__main__":
    main()
