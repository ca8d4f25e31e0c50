"""Is a mixture of models of the order, the weighted sum and nearest sessions better than each of them?

    python experiments/order/mixture.py            the seeds that study.py has trained and mixture.csv does not have
    python experiments/order/mixture.py --most 1   at most one data set and seed now; the next call continues
    python experiments/order/mixture.py --most 0   only mixture.md

Weights are fitted to validation queries, as `model=mixture` fits them: heads alone add their scores, with VSTAN
probabilities are mixed. The test is ranked once by each. One line of mixture.csv is one model or mixture of one seed;
`ranks/` has the rank of each test query of the mixtures.
"""

import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.order.study import DATA as WORDS
from experiments.order.study import (
    MODELS,
    OF_LIBRARY,
    OF_ORDER,
    ONLY_TESTED,
    OWN_RANKS,
    SEEDS,
    SHOWN,
    SUM,
    differences,
    metrics_of,
)
from experiments.rivals.fitting import composed, means
from experiments.rivals.rank_files import RANKS, ranks_path, write_ranks
from experiments.studying import Study, append_rows, available, read_rows, sized, train
from segue.callbacks.run_context import RunContext
from segue.catalog import Vocabulary
from segue.models.contracts import Ranker
from segue.models.mixture import Members, Mixture
from segue.models.restoring import read_checkpoint
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "mixture.csv"
COUNTS = "vstan"
SETS = [
    (SUM, "gru4rec"),
    (SUM, "gru4rec", "sasrec"),
    (SUM, COUNTS, "gru4rec"),
    (SUM, COUNTS, "gru4rec", "sasrec"),
]


def checkpoint_of(data: str, model: str, seed: int) -> Path:
    """The checkpoint of a training."""
    return STUDY.work / data / model / str(seed) / "checkpoints" / "best.ckpt"


def is_trained(data: str, model: str, seed: int) -> bool:
    """Whether the study has trained a model; what counts takes seconds."""
    return checkpoint_of(data, model, seed).exists() or sized(model == COUNTS, True)


def ranker_of(data: str, model: str, seed: int, vocabulary: Vocabulary) -> Ranker:
    """A model that was tested."""
    path = checkpoint_of(data, model, seed)
    if not path.exists():
        own = [word for word in WORDS[data] if model in OF_ORDER or not word.startswith("context.")]
        words = [*own, *MODELS[model]] if model in MODELS else [f"model={model}"]
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

    def read(self) -> dict[str, Ranker]:
        """The models by name."""
        return self.rankers


def mixture_of(rankers: dict[str, Ranker], data: str, vocabulary: Vocabulary) -> Mixture:
    """A mixture before its weights are fitted."""
    words = [f"datamodule={data}", "context=last", "model=mixture", "model.models={a: a, b: b}"]

    def members(known: Vocabulary) -> Read:
        made = Read(known, models=dict.fromkeys(rankers, "no folder"))
        made.rankers = rankers
        return made

    config = composed(words, STUDY.work / "mixture").ranker
    mixture: Mixture = instantiate(config, _convert_="all")(vocabulary=vocabulary, model=members)
    mixture.on_fit_start()
    return mixture


@torch.inference_mode()
def run(data: str, seed: int) -> None:
    """Fit the mixtures of a seed, and add the lines."""
    config = composed([f"datamodule={data}", "model=popular", f"seed={seed}"], STUDY.work / "mixture")
    datamodule = instantiate(config.datamodule, _convert_="all")
    datamodule.prepare_data()
    datamodule.setup()
    queries = instantiate(config.callbacks.ranking, _convert_="all")(RunContext(datamodule=datamodule)).queries
    sets = [names for names in SETS if all(is_trained(data, name, seed) for name in names)]
    every = {name: ranker_of(data, name, seed, datamodule.vocabulary) for names in sets for name in names}
    lines = []
    for names in [*((name,) for name in every), *sets]:
        one: Any = every[names[0]]
        weights = ""
        if len(names) > 1:
            one = mixture_of({name: every[name] for name in names}, data, datamodule.vocabulary)
            one.fit_to(datamodule.histories(queries["val"]), queries["val"].following)
            of = {name: (one.weights.get(name, 0.0), one.gains.get(name, 0.0)) for name in names}
            weights = ", ".join(f"{name} {weight:.2f} ({gain:+.4f})" for name, (weight, gain) in of.items())
        began = time.process_time()
        ranks = {part: one.ranks(datamodule.histories(own), own.following, lambda _: None)
                 for part, own in queries.items()}  # fmt: skip
        query_ms = 1e3 * (time.process_time() - began) / sum(map(len, ranks.values()))
        found = {part: means(of) for part, of in ranks.items()}
        name = "+".join(names)
        if len(names) > 1:
            write_ranks(ranks_path(OWN_RANKS, data, name, str(seed)), ranks["test"])
        line = {"data": data, "seed": seed, "model": name, "val_ndcg_at_10": found["val"]["ndcg_at_10"]}
        line |= {metric: found["test"][metric] for metric in SHOWN}
        lines.append(line | {"query_ms": round(query_ms, 3), "weights": weights, "commit": STUDY.commit()})
        print(*lines[-1].values(), flush=True)
    append_rows(RESULTS, lines)


def report() -> None:
    """Write mixture.md."""
    lines = pd.DataFrame(read_rows(RESULTS))
    rows = []
    for (data, model), own in lines.groupby(["data", "model"], sort=False):
        numbers = own[["val_ndcg_at_10", *SHOWN, "query_ms"]].astype(float).mean().tolist()
        cells = [*(f"{one:.4f}" for one in numbers[:3]), f"{numbers[3]:.2f}"]
        rows.append([str(data), str(model), str(len(own)), *cells, str(own["weights"].iloc[0])])
    head = ["data", "model", "seeds", "validation ndcg@10", "recall@10", "ndcg@10", "ms of a query", "weights (gains)"]
    text = ["Weights and gains in validation ndcg@10 are those of the first seed.", ""]
    text += [*table(head, rows, "llrrrrrl"), "", "## Differences on test queries", ""]
    rows = []
    for data in WORDS:
        others = {model: metrics_of(OWN_RANKS, data, model) for model in MODELS}
        others |= {f"{name} (library)": metrics_of(RANKS, data, name) for name in OF_LIBRARY.values()}
        for names in SETS:
            num_seeds = len(metrics_of(OWN_RANKS, data, "+".join(names)))
            same = {name: of[:num_seeds] if name in MODELS else of for name, of in others.items()}
            rows += differences(data, "+".join(names), same)
    text += table(["data", "model", "less", "metric", "difference", "lower", "upper"], rows, "llllrrr")
    text += ["", "Intervals of 95 % over test sessions, and over seeds where there are several, paired by query."]
    STUDY.write_table("mixture.md", text)


def main() -> None:
    """Fit the mixtures of the seeds that are missing, and write the table."""
    parser = STUDY.parser()
    parser.add_argument("--most", type=int, default=99, help="at most so many data sets and seeds now")
    given = STUDY.parse(parser)
    torch.set_num_threads(1)
    done = {(row["data"], int(row["seed"])) for row in read_rows(RESULTS)}
    pieces = [(data, seed) for data in available(*WORDS) for seed in SEEDS]
    ready = [(data, seed) for data, seed in pieces if all(is_trained(data, name, seed) for name in SETS[0])]
    for piece in [one for one in ready if one not in done][: given.most]:
        run(*piece)
    report()


if __name__ == "__main__":
    STUDY.run(main)
