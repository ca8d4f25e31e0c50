"""Is a mixture of models of the order and the weighted sum better than each of them, and than the best rival?

    python experiments/order/mixture.py            the seeds that results.csv has and mixture.csv does not have
    python experiments/order/mixture.py --most 1   at most one data set and seed now; the next call continues
    python experiments/order/mixture.py --only yes one data set
    python experiments/order/mixture.py --most 0   only mixture.md

Weights are fitted to validation queries, as `model=mixture` fits them: heads alone add their scores; with models that
count, probabilities are mixed. These have the settings that the study rivals chose. Models of study.py whose folders
are gone are trained again. The test is ranked once by each.
One line of mixture.csv is one mixture of one seed, or one model of the first; `ranks/` has the rank of each test query
of the mixtures.
"""

import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.order.study import (
    ALL_VALIDATION,
    DATA,
    MIXTURES,
    MODELS,
    ONLY_TESTED,
    OWN_RANKS,
    RESULTS,
    SEEDS,
    SHOWN,
    SUM,
    differences,
    lines_of,
    metrics_of,
    shown,
    table_of_differences,
    words_of,
)
from experiments.rivals.fitting import means
from experiments.rivals.rank_files import RANKS, ranks_path, write_ranks
from experiments.rivals.spaces import MODELS as RIVALS
from experiments.rivals.study import chosen, known
from experiments.rivals.tables import Test, best_rival, results, with_holm
from experiments.studying import Study, append_rows, available, composed, data_of, is_smoke, read_rows, train
from segue.callbacks.run_context import RunContext
from segue.catalog import Vocabulary
from segue.models.contracts import Ranker
from segue.models.mixture import Members, Mixture
from segue.models.restoring import read_checkpoint
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
COUNTS = {"rules": "rules, session"}
"""Models that count, by their names in the study rivals. They have no seed."""
RUN = f"run_dir={STUDY.work / 'mixture'}"
HEADS, COUNTED = (SUM, "gru4rec", "sasrec"), "counted"
SETS = ["+".join(names) for names in (HEADS[:2], HEADS, (*HEADS, *COUNTS), (*HEADS, COUNTED))]
"""The models of each mixture; `counted` is the counted part around heads."""


def checkpoint_of(data: str, model: str, seed: int) -> Path:
    """The checkpoint of a training."""
    return STUDY.work / data / model / str(seed if model in MODELS else 1) / "checkpoints" / "best.ckpt"


def ranker_of(data: str, model: str, seed: int, vocabulary: Vocabulary) -> Ranker:
    """A model that was tested."""
    path = checkpoint_of(data, model, seed)
    if not path.exists():
        rival = COUNTS.get(model)
        of_rival = () if rival is None else (*RIVALS[rival].words, *(() if is_smoke() else chosen(data, rival)))
        words = of_rival or words_of(data, model)
        with torch.inference_mode(mode=False):  # with --smoke it trains in a fork of this process
            train(f"datamodule={data}", *words, *ONLY_TESTED, f"seed={seed}", f"run_dir={path.parents[1]}")
    config, saved = OmegaConf.load(path.parents[1] / "config.yaml"), read_checkpoint(path)
    ranker = instantiate(config.ranker, _convert_="all")(vocabulary=vocabulary)
    ranker.on_load_checkpoint(saved)
    ranker.load_state_dict(saved["state_dict"])
    found: Ranker = ranker.eval()
    return found


class Read(Members):
    """Members that are in memory.

    Attributes:
        rankers: the models by name.
    """

    rankers: dict[str, Ranker]

    def read(self, names: Collection[str]) -> dict[str, Ranker]:
        """Some of the models by name."""
        return {name: one for name, one in self.rankers.items() if name in names}


def mixture_of(rankers: dict[str, Ranker], data: str, vocabulary: Vocabulary, counted: str) -> Mixture:
    """A mixture before its weights are fitted, with a choice of what is counted around heads."""
    words = [f"datamodule={data}", "context=last", "model=mixture", f"counted={counted}", "model.models={a: a, b: b}"]

    def members(known: Vocabulary) -> Read:
        read = Read(known, models=dict.fromkeys(rankers, "no folder"))
        read.rankers = rankers
        return read

    config = composed("train", *words, RUN).ranker
    mixture: Mixture = instantiate(config, _convert_="all")(vocabulary=vocabulary, model=members)
    mixture.on_fit_start()
    return mixture


@torch.inference_mode()
def run(data: str, seed: int, missing: Sequence[str]) -> None:
    """Fit missing mixtures of a seed, rank the queries, and add the lines; a model alone needs no fit."""
    config = composed("train", f"datamodule={data}", "model=popular", f"seed={seed}", ALL_VALIDATION, RUN)
    datamodule = data_of(config)
    queries = instantiate(config.callbacks.ranking, _convert_="all")(RunContext(datamodule=datamodule)).queries
    every = {name: ranker_of(data, name, seed, datamodule.vocabulary) for name in (*MODELS, *COUNTS)}
    lines = []
    for name in missing:
        names = [one for one in name.split("+") if one != COUNTED]
        one: Any = every[names[0]]
        weights = ""
        if len(names) > 1:
            counted = "auto" if name.endswith(COUNTED) else "none"
            one = mixture_of({name: every[name] for name in names}, data, datamodule.vocabulary, counted)
            one.fit_to(datamodule.histories(queries["val"]), queries["val"].following)
            of = {name: (one.weights.get(name, 0.0), one.gains.get(name, 0.0)) for name in names}
            weights = ", ".join(f"{name} {weight:.2f} ({gain:+.4f})" for name, (weight, gain) in of.items())
        began = time.process_time()
        ranks = {part: one.ranks(datamodule.histories(own), own.following, lambda _: None)
                 for part, own in queries.items()}  # fmt: skip
        query_ms = 1e3 * (time.process_time() - began) / sum(map(len, ranks.values()))
        found = {part: means(of) for part, of in ranks.items()}
        if len(names) > 1:
            write_ranks(ranks_path(OWN_RANKS, data, name, str(seed)), ranks["test"])
        line = {"data": data, "seed": seed, "model": name, "val_ndcg_at_10": found["val"]["ndcg_at_10"]}
        line |= {metric: found["test"][metric] for metric in SHOWN}
        lines.append(line | {"query_ms": round(query_ms, 3), "weights": weights, "commit": STUDY.commit()})
        print(*lines[-1].values(), flush=True)
    append_rows(MIXTURES, lines)


def report() -> None:
    """Write mixture.md."""
    rows, of_goal, others = list[list[str]](), list[Test](), list[Test]()
    for data in DATA:
        lines, val = [line for line in read_rows(MIXTURES) if line["data"] == data], dict[str, float]()
        for line in lines:
            if (model := line["model"]) not in val:
                own = lines_of(RESULTS if model in MODELS else MIXTURES, data, model)
                values = own[["val_ndcg_at_10", *SHOWN]].mean()
                val[model] = values["val_ndcg_at_10"]
                query_ms = lines_of(MIXTURES, data, model)["query_ms"].median()
                cells = [*(shown(value, 4) for value in values), shown(query_ms, 2), line["weights"]]
                rows.append([data, model, str(len(own)), *cells])
        num_seeds = {name: len(lines_of(MIXTURES, data, name)) for name in filter(val.get, SETS)}
        best = max(num_seeds, key=lambda name: (num_seeds[name], val[name]), default="")
        found = results(data, known(), RANKS)
        if (rival := best_rival(found)) is not None:
            of_goal += differences(data, best, {rival: found[rival].values})
        others += differences(data, best, {model: metrics_of(OWN_RANKS, data, model) for model in MODELS})
    head = ["data", "model", "seeds", "validation ndcg@10", "recall@10", "ndcg@10", "ms of a query", "weights (gains)"]
    text = ["Weights and gains in validation ndcg@10 are those of the first seed.", "", *table(head, rows, "llrrrrrl")]
    text += ["", "## The mixture and the rival that validate best", "", *with_holm(of_goal)]
    text += ["", "## The mixture that validates best, and its models", "", *table_of_differences(others)]
    STUDY.write_table("mixture.md", text)


def main() -> None:
    """Fit the mixtures of the seeds that are missing, and write the table."""
    parser = STUDY.parser()
    parser.add_argument("--most", type=int, default=99, help="at most so many data sets and seeds now")
    parser.add_argument("--only", choices=[*DATA], help="one data set")
    given = STUDY.parse(parser)
    torch.set_num_threads(1)
    done = {(row["data"], int(row["seed"]), row["model"]) for row in read_rows(MIXTURES)}
    data_sets = available(*([given.only] if given.only else DATA))
    pieces = [(data, seed) for seed in SEEDS for data in data_sets]
    trained = {(row["data"], row["model"], int(row["seed"])) for row in read_rows(RESULTS)}
    ready = [(data, seed) for data, seed in pieces if is_smoke() or trained >= {(data, one, seed) for one in MODELS}]
    alone = {SEEDS[0]: [*MODELS, *COUNTS]}  # what a query costs
    wanted = {(data, seed): [*alone.get(seed, []), *SETS] for data, seed in ready}
    missing = {piece: [name for name in names if (*piece, name) not in done] for piece, names in wanted.items()}
    for piece, names in [one for one in missing.items() if one[1]][: given.most]:
        run(*piece, names)
    report()


if __name__ == "__main__":
    STUDY.run(main)
