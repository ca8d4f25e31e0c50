"""nowplaying with the published protocol: the rank of every target of the published test file.

    python experiments/published/study.py                       what is missing, then results.md
    python experiments/published/study.py --most 1              at most one training now; the next call continues
    python experiments/published/study.py --only vstan convex   some models
    python experiments/published/study.py --seeds 3 4           some seeds
    python experiments/published/study.py --most 0              only results.md

Each model learns train.txt.gz: validation, cut from the end of its sessions, chooses the epoch, and the model is then
refitted on all of them. It ranks each track of test.txt.gz after the tracks before it, among all tracks, those that
were heard included. The mixture is of three of the runs; those whose folders are gone are trained again. Some rivals
have trials first (`trials.py`); two are networks of other libraries, which are installed. One line of results.csv is
one training, the last one of its model and seed counts; ranks/ has the rank of every target.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import segue
from experiments.published import trials
from experiments.published.trials import LINEAR, words_of
from experiments.rivals.fitting import Network
from experiments.rivals.rank_files import read_ranks, write_ranks
from experiments.studying import Study, append_rows, available, composed, data_of, read_rows, run_python, sized
from segue.callbacks.run_context import RunContext
from segue.catalog import Catalog
from segue.datamodules.other_model import as_test_of
from segue.datamodules.pairs.pairs import Pairs
from segue.histories import Histories
from segue.models.ranker import Ranker
from segue.models.retrieval.ranks import ranks_by_plays
from segue.reports.markdown import table
from segue.statistics import ranking
from segue.statistics.holm import holm
from segue.statistics.paired import QueryScores, paired_difference
from segue.verbs.api.calling import call
from segue.verbs.train import read_data

STUDY = Study(__file__, __doc__)
RESULTS, RANKS = STUDY.folder / "results.csv", STUDY.folder / "ranks"
HEAD = ("recipe=playlists", "trainer.max_epochs=4")
Words = tuple[str, ...]
MIXTURE, MEMBERS = "mixture", {"convex": "convex, counted", "vstan": "vstan", "rules": "rules"}
"""The mixture, and by name of a member the model that it is."""
OURS: dict[str, Words] = sized(
    {
        "convex": (*HEAD, "context=session", "counted=none"),
        "convex, counted": (*HEAD, "context=session"),
        "gru4rec": (*HEAD, "model=gru4rec", "counted=none"),
        "sasrec": (*HEAD, "model=sasrec", "counted=none"),
        MIXTURE: (),
    },
    {"convex, counted": ("model=rules", "context=session", "model.window=2"), MIXTURE: ()},  # nothing is trained
)
RIVALS: dict[str, Words] = {
    "counts": ("model=rules", "model.window=1", "context=last", "context.max_length=20", "context.repeats=auto"),
    "rules": ("model=rules", "context=session"),
    "item-kNN": ("model=neighbours", "context=session"),
    "stan": ("model=stan", "context=session"),
    "vstan": ("model=vstan", "context=session"),
    "slist": ("model=slist", *LINEAR),
    "ease": ("model=ease", *LINEAR),
}
RIVALS |= {name: tried.words for name, tried in trials.MODELS.items()}
FEW = {"vstan": RIVALS["counts"], "rules": RIVALS["rules"], "rules, tuned": RIVALS["rules, tuned"]}
MODELS = sized(RIVALS, FEW) | OURS  # the mixture is last
SEEDS: dict[str, int] = dict.fromkeys(("convex, counted", MIXTURE), sized(5, 1))
"""Trainings of models that have more than one."""
MOST: int | None = sized(None, 40)
"""Sessions of the test, at most."""
LIST, LISTED = 20, sized(2000, 20)
"""Length of the lists of which coverage and popularity are, and number of queries that have one."""
LEVEL = 0.95
SHOWN = {"every_target_p_at_20": "P@20", "every_target_mrr_at_20": "MRR@20"}


class Final(NamedTuple):
    """A model that has learned all sessions.

    Args:
        ranker: the model.
        catalog: its tracks.
        plays: how often each was played.
        line: what its line of results.csv says of the training.
    """

    ranker: Ranker | Network
    catalog: Catalog
    plays: np.ndarray
    line: dict[str, Any]


def cpu_s() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def seeds_of(model: str) -> range:
    """The seeds of a model; what counts has no random numbers."""
    return range(1, 1 + SEEDS.get(model, 1))


def name_of(model: str, seed: int) -> str:
    """The name of the files of a training."""
    return f"{model.replace(', ', '-')}_{seed}"


def ranks_path(model: str, seed: int) -> Path:
    """The file of the ranks of a training."""
    return RANKS / f"{name_of(model, seed)}.parquet"


def trained(model: str, seed: int) -> Final:
    """Train and refit a model, with the settings of its best trial where it has trials."""
    tried = trials.MODELS.get(model)
    best: Mapping[str, str] = {"settings": ""} if tried is None else trials.chosen(model, STUDY.commit)
    if tried is not None and tried.library is not None:
        ranker, known, refit_s = trials.final_network(model, seed, best, lambda *known: the_test(*known)[1])
        line = {"val_ndcg_at_10": best["val_ndcg_at_10"], "train_cpu_s": round(float(best["fit_s"]) + refit_s)}
        return Final(ranker, known.catalog, known.plays, line | {"weights": ""})
    folder, began = STUDY.work / name_of(model, seed), cpu_s()
    words = [*words_of("train"), *MODELS[model], *best["settings"].split(), f"seed={seed}"]
    words += ["refit=all", "logger=none", "callbacks.plots=null"]
    words += ["callbacks.ranking.max_test_queries=50", "callbacks.export.k=10"]
    run_python(["train.py", *words, f"run_dir={folder}"], threads=1)
    line = {"val_ndcg_at_10": json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["val/ndcg_at_10"]}
    line |= {"train_cpu_s": round(cpu_s() - began), "weights": ""}
    fitted = segue.load(folder)._model
    return Final(fitted.ranker, fitted.catalog, fitted.plays, line)


def members_of(seed: int) -> dict[str, tuple[str, int]]:
    """The trainings that the mixture of a seed is of, by name of a member."""
    return {name: (model, min(seed, seeds_of(model)[-1])) for name, model in MEMBERS.items()}


@torch.inference_mode()
def mixed(seed: int) -> Final:
    """Weight the runs of a seed on validation, and mix their refitted models, as model=mixture does."""
    began, members = cpu_s(), members_of(seed)
    folders = ", ".join(f"{name}: {STUDY.work / name_of(*one)}" for name, one in members.items())
    words = [*words_of("train"), "model=mixture", f"model.models={{{folders}}}", f"seed={seed}"]
    config = composed("train", *words, f"run_dir={STUDY.work / MIXTURE}")
    data = data_of(config)
    val = instantiate(config.callbacks.ranking, _convert_="all")(RunContext(datamodule=data)).queries["val"]
    build, histories = instantiate(config.ranker, _convert_="all"), data.histories(val)
    tested = build(vocabulary=data.vocabulary)
    tested.on_fit_start()
    tested.fit_to(histories, val.following)
    weights = [f"{name} {weight:.2f}" for name, weight in tested.weights.items()]
    costs = {(row["model"], int(row["seed"])): float(row["train_cpu_s"] or "nan") for row in read_rows(RESULTS)}
    train_cpu_s = round(cpu_s() - began + sum(costs[one] for one in members.values()), 0)  # NaN where one is not known
    ndcg = ranking.accuracy(tested.ranks(histories, val.following, lambda _: None))["ndcg_at_10"].mean()
    line = {"val_ndcg_at_10": ndcg, "train_cpu_s": train_cpu_s, "weights": ", ".join(weights)}
    whole = data.as_training().vocabulary
    final = build(vocabulary=whole)
    final.decide(tested.decided())
    final.on_fit_start()
    return Final(final, whole.catalog, whole.plays, line)


@cache
def test_file() -> Any:
    """The sessions of the test."""
    (data, _), _ = call(read_data, words_of("test"))
    return data


def the_test(catalog: Catalog, plays: np.ndarray) -> tuple[Pairs, Histories]:
    """The targets of the test, and what was heard before each, for a model of these tracks."""
    test = as_test_of(test_file(), catalog, plays)
    targets = test.data.events_of("test")
    targets = targets if MOST is None else targets.where(ranking.sample_sessions(targets.session, MOST))
    return targets, test.histories(targets)


def run(model: str, seed: int) -> None:
    """Train, rank the targets, and add a line."""
    for member in members_of(seed).values() if model == MIXTURE else ():
        if not (STUDY.work / name_of(*member) / "refit.json").exists():
            run(*member)
    print(f"{model}, seed {seed}", flush=True)
    final = mixed(seed) if model == MIXTURE else trained(model, seed)
    targets, histories = the_test(final.catalog, final.plays)
    some = np.random.default_rng(1).permutation(len(targets))[:LISTED]
    with torch.inference_mode():
        lists, began = final.ranker.top(histories.where(some), LIST)[0], cpu_s()
        ranks = final.ranker.ranks(histories, targets.following, lambda _: None, every=True)
        query_cpu_ms = (cpu_s() - began) * 1000 / len(targets)
    write_ranks(ranks_path(model, seed), ranks)
    sessions = RANKS / "sessions.parquet"
    if not sessions.exists():
        pd.DataFrame({"session": targets.session.astype(np.int32)}).to_parquet(sessions, index=False)
        write_ranks(ranks_path("popular", 1), ranks_by_plays(final.plays, None, targets.following))
    line = {"model": model, "seed": seed, **final.line}
    line |= {
        "coverage_at_20": ranking.coverage(lists, len(final.plays)),
        "popularity_rank_at_20": float(ranking.popularity_rank(lists, final.plays).mean()),
        "query_cpu_ms": round(query_cpu_ms, 2),
        "commit": STUDY.commit(),
    }
    append_rows(RESULTS, [line])


def scores(model: str, seeds: Sequence[int]) -> dict[str, QueryScores]:
    """Both metrics of the trainings of a model."""
    session = np.unique(pd.read_parquet(RANKS / "sessions.parquet")["session"], return_inverse=True)[1]
    runs = [ranking.every_target(read_ranks(ranks_path(model, seed))) for seed in seeds]
    return {name: QueryScores.of(np.stack([run[name] for run in runs]), session) for name in SHOWN}


def differences(title: str, ours: Sequence[str], rival: str, found: dict[str, dict[str, QueryScores]]) -> list[str]:
    """A table of some models less a rival; Holm's correction is over its lines."""
    pairs = [(model, metric) for model in ours for metric in SHOWN]
    tests = [paired_difference(found[model][metric], found[rival][metric], LEVEL) for model, metric in pairs]
    rows = []
    for (model, metric), one, p_value in zip(pairs, tests, holm([one.p_value for one in tests]), strict=True):
        interval = [f"{100 * number:+.2f}" for number in (one.difference, one.lower, one.upper)]
        rows.append([model, SHOWN[metric], *interval, f"{p_value:.4f}"])
    head = ["model", "metric", "difference", "lower", "upper", "Holm's p"]
    return ["", f"## {title} less {rival}, the rival that validates best", "", *table(head, rows, "llrrrr")]


def report() -> None:
    """Write results.md."""
    lines = pd.DataFrame(read_rows(RESULTS))
    if lines.empty:
        return
    numbers = ["val_ndcg_at_10", "coverage_at_20", "popularity_rank_at_20", "train_cpu_s", "query_cpu_ms"]
    lines[numbers] = lines[numbers].apply(pd.to_numeric)
    lines = lines.drop_duplicates(["model", "seed"], keep="last")
    means, trainings = lines.groupby("model")[numbers].mean(), lines.groupby("model").size()
    found = {"popular": scores("popular", [1])}
    for model in MODELS:
        if model in means.index:
            found[model] = scores(model, sorted(lines[lines["model"] == model]["seed"].astype(int)))
    rows = []
    for model, of in found.items():
        shown = []
        for one in of.values():
            nothing = replace(one, mean=0.0, session_sums=0 * one.session_sums, run_means=np.zeros(1))
            interval = paired_difference(one, nothing, LEVEL)  # of the mean itself, over sessions and seeds
            shown += [f"{100 * one.mean:.2f}", f"{100 * (interval.upper - one.mean):.2f}"]
        if model not in means.index:
            rows.append([model, "1", "", *shown, *[""] * 4])
            continue
        mean, formats = means.loc[model], (".4f", ".3f", ",.0f", ",.0f", ".2f")
        cells = [f"{number:{form}}".replace("nan", "") for number, form in zip(mean, formats, strict=True)]
        rows.append([model, str(trainings[model]), cells[0], *shown, *cells[1:]])
    head = ["model", "trainings", "validation ndcg@10", "P@20, %", "±", "MRR@20, %", "±", "coverage@20"]
    head += ["popularity rank@20", "CPU of training, s", "CPU of a query, ms"]
    targets = len(pd.read_parquet(RANKS / "sessions.parquet"))
    text = ["# Results", "", f"Written by `{STUDY.command}`. {targets:,} targets of the published test file.", ""]
    text += [*table(head, rows, "l" + "r" * 10)]
    ours, rivals = ([name for name in some if name in means.index] for some in (OURS, RIVALS))
    if rivals and ours:
        best, rival = (max(some, key=lambda name: means["val_ndcg_at_10"][name]) for some in (ours, rivals))
        text += differences(f"{best}, which validates best,", [best], rival, found)
        if others := [name for name in ours if name != best]:
            text += differences("Others of ours", others, rival, found)
        text += ["", "Intervals of 95 %, in per cent, over test sessions and seeds, paired by target."]
    STUDY.write_table("results.md", text)
    STUDY.write_provenance()


def main() -> None:
    """Train what is missing, then write the tables."""
    parser = STUDY.parser()
    parser.add_argument("--most", type=int, default=99, help="train at most so many models now")
    parser.add_argument("--only", nargs="+", choices=list(MODELS), help="some models", default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, help="some seeds", default=range(1, 6))
    given = STUDY.parse(parser)
    if not available(trials.DATA):
        return
    torch.set_num_threads(1)
    RANKS.mkdir(parents=True, exist_ok=True)
    done = {(row["model"], int(row["seed"])) for row in read_rows(RESULTS)}
    missing = [(seed, model) for model in given.only for seed in seeds_of(model) if (model, seed) not in done]
    for seed, model in sorted((one for one in missing if one[0] in given.seeds), key=lambda one: one[0])[: given.most]:
        run(model, seed)
    report()


if __name__ == "__main__":
    STUDY.run(main)
