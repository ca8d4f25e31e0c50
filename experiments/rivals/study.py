"""Our models against what a practitioner would try first: python experiments/rivals/study.py

For each data set and model: the default settings and so many trials of the project's own search, chosen by validation;
what was chosen is trained anew with five seeds (once where nothing is random), and only that is read on the test. Then
convex against the rival that validates best, query by query, and cold tracks on polimi. A study that was stopped goes
on where it was; `--only rivals` or `--only ours` does a part of it. What stands in the tables is not run again but
with `--anew`. Writes results.*, comparison.*, cold.* and provenance.json beside this file.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from experiments.runs import (  # noqa: E402
    ALONE,
    Job,
    commit,
    has,
    interval,
    markdown,
    run,
    run_all,
    standing,
    tested,
    validation,
    write_results,
)
from src.statistics.holm import holm  # noqa: E402
from src.statistics.paired import PairedDifference, QueryScores, paired_difference  # noqa: E402

HERE, RUNS = Path(__file__).parent, ROOT / "outputs" / "rivals"
TABLE = HERE / "results.csv"
SEEDS = (1, 2, 3, 4, 5)
CHOOSES = "val/ndcg_at_10"
SHOWN = ("test/recall_at_10", "test/ndcg_at_10", "test/mrr", "test/coverage_at_10", "test/popularity_rank_at_10")
COMPARED = ("recall_at_10", "ndcg_at_10", "mrr")
QUERY = ["session", "previous", "following"]
COLD = 3
"""A track that training played less often is cold."""
mpl.use("agg")


@dataclass(frozen=True, kw_only=True)
class Data:
    """A source; `trials` with the default settings among them."""

    trials: int
    words: tuple[str, ...]
    shares: bool = False
    """Whether it tells how much of a track was played; loss=auto would then learn that, and not to rank."""


LOGS = RUNS / "world" / "logs"
DATA = {
    "yes": Data(trials=12, words=("datamodule=yes",)),
    "polimi": Data(trials=12, words=("datamodule=polimi",)),
    "botify": Data(trials=12, words=("datamodule=botify", "datamodule.pairing=consecutive"), shares=True),
    "world": Data(
        trials=4,
        words=("datamodule=botify", f"datamodule.path={LOGS}", "datamodule.pairing=first"),
        shares=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is trained, what of it is searched, and whether its seed matters."""

    words: tuple[str, ...]
    space: tuple[str, ...] = ()
    random: bool = False
    ours: bool = False
    on_world: tuple[str, ...] = ()
    """Words that spare time where the catalogue and the log are large."""
    like: str = ""
    """Another model, whose chosen settings it has."""


PATIENT = ("optimizer.weight_decay=0", "callbacks.early_stopping.patience=4")
LEARNED = (
    "model.dim=choice(64,128,256)",
    "model.dropout=interval(0.1,0.5)",
    "loss.without_shares.temperature=tag(log,interval(0.08,0.25))",
    "optimizer.lr=tag(log,interval(0.002,0.015))",
)
NEAR = ("model.dim=choice(32,64,128)", "model.artist_weight=choice(0.0,0.03,0.1,0.3,1.0)")
MODELS = {
    "popular": Model(words=("model=popular",)),
    "recent popular": Model(words=("model=popular",), space=("model.half_life=tag(log,interval(10,100000))",)),
    "sticky artist": Model(words=("model=sticky",)),
    "Markov": Model(
        words=("model=rules", "model.window=1"),
        space=("model.reverse_weight=interval(0,1)", "model.artist_weight=choice(0.0,0.03,0.1,0.3,1.0,3.0)"),
    ),
    "rules": Model(
        words=("model=rules",),
        space=(
            "model.window=range(2,21)",
            "model.decay=choice(inverse,0.5,0.7,0.9,1)",
            "model.reverse_weight=interval(0,1)",
            "model.artist_weight=choice(0.0,0.03,0.1,0.3,1.0,3.0)",
        ),
    ),
    "item-kNN": Model(
        words=("model=neighbours",),
        space=(
            "model.shrinkage=tag(log,interval(0.1,200))",
            "model.norm_power=interval(0,1)",
            "model.length_power=interval(0,1)",
            "model.artist_weight=choice(0.0,0.01,0.03,0.1,0.3,1.0)",
        ),
    ),
    "session-kNN": Model(
        words=("model=neighbours", "model.norm_power=0", "model.length_power=1", "model.shrinkage=0"),
        space=("model.artist_weight=choice(0.0,0.01,0.03,0.1,0.2,0.3,0.5,1.0,2.0,3.0)",),
    ),
    "item2vec": Model(
        words=("model=item2vec",),
        space=(
            "model.window=choice(3,7,12,15)",
            "model.negative_exponent=interval(-1,1)",
            "model.subsample=tag(log,interval(1e-5,1e-1))",
            "model.epochs=choice(20,50,110)",
            *NEAR,
        ),
        random=True,
        on_world=("model.epochs=10",),
    ),
    "ALS": Model(
        words=("model=als",),
        space=(
            "model.confidence=tag(log,interval(0.5,100))",
            "model.regularization=tag(log,interval(0.001,10))",
            "model.similarity=choice(cosine,inner)",
            *NEAR,
        ),
        random=True,
    ),
    "BPR": Model(
        words=("model=bpr",),
        space=(
            "model.lr=tag(log,interval(0.003,0.1))",
            "model.regularization=tag(log,interval(0.0001,0.1))",
            "model.epochs=choice(50,100,200)",
            "model.similarity=choice(cosine,inner)",
            *NEAR,
        ),
        random=True,
        on_world=("model.epochs=50",),
    ),
    "contextual": Model(
        words=("model=contextual", *PATIENT),
        space=("model.item_bias=choice(true,false)", *LEARNED),
        random=True,
        ours=True,
    ),
    "convex": Model(
        words=("model=convex", "model.alpha=learned", "model.track_dropout=0", *PATIENT),
        space=("model.order_std=choice(0.0,0.1,0.3)", *LEARNED),
        random=True,
        ours=True,
    ),
    "track": Model(words=("model=track", *PATIENT), random=True, ours=True, like="convex"),
}  # fmt: skip

QUIET = (
    "logger=none",
    "callbacks.plots=null",
    "callbacks.export=null",
    "callbacks.lineage.model=false",
    "callbacks.checkpoint.save_last=false",
    "callbacks.ranking.max_val_queries=20000",
    "monitor.metric=val/ndcg_at_10",
    "monitor.mode=max",
)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--only", choices=["rivals", "ours"])
    asked.add_argument("--data", nargs="*", choices=list(DATA), default=list(DATA), help="nothing: only the tables")
    asked.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    asked.add_argument("--at-once", type=int, default=2, help="processes side by side")
    asked.add_argument("--anew", action="store_true", help="do not go on from what stands in the tables")
    given = asked.parse_args()
    for data in given.data:
        if data == "world":
            arms = "arms={C: random, T1: random, T2: sticky_artist, T3: popular}"
            run("simulate", LOGS, "world=published", arms, "sessions=50000", "seed=11")
        names = [name for name in given.models if given.only in (None, "ours" if MODELS[name].ours else "rivals")]
        names = [name for name in names if given.anew or not has(standing(TABLE), data=data, model=name)]
        with ThreadPoolExecutor(given.at_once) as pool:
            list(pool.map(lambda name, data=data: tune(data, name), names))
        run_all((job for name in names for job in final(data, name)), at_once=given.at_once)
        spare_disk(RUNS / data)
        show(anew=given.anew)
    if not given.data:
        show(anew=given.anew)


# Validation chooses: nothing from here to `final` reads a metric of the test.


def words(data: str, name: str) -> tuple[str, ...]:
    """What stands fast."""
    model = MODELS[name]
    loss = ("loss=softmax",) if model.ours and DATA[data].shares else ()
    return (*model.words, *(model.on_world if data == "world" else ()), *loss, *DATA[data].words, *QUIET)


def space(data: str, name: str) -> tuple[str, ...]:
    """What is searched; a key that stands fast is not."""
    fixed = {word.partition("=")[0] for word in words(data, name)}
    searched = MODELS[name].space
    if DATA[data].shares:
        searched = tuple(word.replace("loss.without_shares.", "loss.") for word in searched)
    return tuple(word for word in searched if word.partition("=")[0] not in fixed)


def folder(data: str, name: str, *told: str) -> Path:
    """Where a part of the study lies; another one where it is told something else."""
    digest = hashlib.sha256(shlex.join([*words(data, name), *told]).encode()).hexdigest()[:6]
    return RUNS / data / f"{name.replace(' ', '_')}_{digest}"


def tune(data: str, name: str) -> None:
    """The default settings, and the trials of the search."""
    run_all([("train", folder(data, name) / "defaults", (*words(data, name), "seed=1"))], at_once=1)
    if not space(data, name):
        return
    there = searched(data, name)
    if (there / "search.csv").exists():
        return
    shutil.rmtree(there, ignore_errors=True)  # a search that was stopped begins again
    command = [
        *(sys.executable, "train.py", "-m", "search=optuna", f"search.num_trials={DATA[data].trials - 1}"),
        *(f"search.storage=sqlite:///{there}/optuna.db", f"hydra.sweep.dir={there}", "seed=1"),
        *words(data, name),
        *space(data, name),
    ]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **ALONE}, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-3000:] + done.stderr[-3000:], file=sys.stderr)
        done.check_returncode()
    spare_disk(there)
    print(f"— {data} {name}: {len(trials(data, name))} trials", flush=True)


def searched(data: str, name: str) -> Path:
    return folder(data, name, *space(data, name), str(DATA[data].trials)) / "search"


def trials(data: str, name: str) -> list[tuple[float, tuple[str, ...]]]:
    """Validation and settings of what was tried to the end: the defaults first, then what the search wrote down."""
    found: list[tuple[float, tuple[str, ...]]] = [(validation(folder(data, name) / "defaults")[CHOOSES], ())]
    table = searched(data, name) / "search.csv"
    if table.exists():
        drawn = pd.read_csv(table, dtype=str)
        keys = [key for key in drawn.columns if "." in key]
        for trial in drawn[drawn["state"] == "complete"].to_dict("records"):
            settings = tuple(f"{key}={trial[key]}" for key in keys if isinstance(trial[key], str))
            found.append((float(trial["value"]), settings))
    return found


def chosen(data: str, name: str) -> tuple[str, ...]:
    """The settings that validate best; the defaults where nothing is better."""
    if like := MODELS[name].like:
        return tuple(word for word in chosen(data, like) if not word.startswith("model.alpha"))
    if is_tried(data, name):
        return max(trials(data, name), key=lambda trial: trial[0])[1]
    line = next((line for line in standing(TABLE) if (line["data"], line["model"]) == (data, name)), None)
    if line is None:
        sys.exit(f"{name} is not searched on {data} yet; run it first, or beside: --data {data} --models {name!r}")
    settings = line["settings"].split() if line["settings"] != "defaults" else []
    return tuple(word if "." in word.partition("=")[0] else f"model.{word}" for word in settings)


def is_tried(data: str, name: str) -> bool:
    """Whether all trials are there."""
    has_defaults = (folder(data, name) / "defaults" / "metrics.json").exists()
    return has_defaults and (not space(data, name) or (searched(data, name) / "search.csv").exists())


def final(data: str, name: str) -> list[Job]:
    """The runs that the test is read of."""
    settings = chosen(data, name)
    seeds = SEEDS if MODELS[name].random else SEEDS[:1]
    where = folder(data, name, *settings)
    return [("train", where / f"seed_{seed}", (*words(data, name), *settings, f"seed={seed}")) for seed in seeds]


def spare_disk(below: Path) -> None:
    """Checkpoints of 500 neighbours of each track take gigabytes, and nobody asks for them again."""
    for checkpoint in below.rglob("checkpoints/*.ckpt"):
        checkpoint.unlink()


# The test is told of what validation has chosen.


def runs_of(data: str, name: str) -> list[Path]:
    """Folders of the final runs, where all are there."""
    like = MODELS[name].like or name
    if not is_tried(data, like) and not has(standing(TABLE), data=data, model=like):
        return []
    found = [job[1] for job in final(data, name)]
    return found if all((one / "metrics.json").exists() for one in found) else []


def show(*, anew: bool) -> None:
    """Write what there is so far, and what stands in the tables of which there are no runs."""
    old = {name: [] if anew else standing(HERE / f"{name}.csv") for name in ("results", "comparison")}
    runs = {(data, name): found for data in DATA for name in MODELS if (found := runs_of(data, name))}
    measured = {(line["data"], line["model"]): line for line in old["results"]}
    measured |= {(data, name): row(data, name, found) for (data, name), found in runs.items()}
    rows = [measured[data, name] for data in DATA for name in MODELS if (data, name) in measured]
    if not rows:
        sys.exit(f"nothing to write: no finished runs in {RUNS}")
    table, readable = pd.DataFrame(rows), pd.DataFrame([told(one) for one in rows])
    write_results(HERE, table, readable)
    draw(table)
    best = {data: best_rival(data, rows) for data in DATA}
    pairs = [(data, "convex", best[data]) for data in DATA if {(data, "convex"), (data, best[data])} <= runs.keys()]
    if pairs:
        compared_anew = pd.concat([compared(runs, *pair) for pair in pairs])
        kept = pd.DataFrame([line for line in old["comparison"] if line["data"] not in set(compared_anew["data"])])
        write("comparison.md", pd.concat([kept, compared_anew]))
    if ("polimi", "convex") in runs and ("polimi", "track") in runs:
        write("cold.md", cold(runs))
    print(readable.to_string(index=False), flush=True)


def row(data: str, name: str, found: list[Path]) -> dict[str, Any]:
    made: dict[str, Any] = {"data": data, "model": name, "ours": MODELS[name].ours, "runs": len(found)}
    made["trials"] = DATA[data].trials if space(data, name) else 1
    made["settings"] = " ".join(word.removeprefix("model.") for word in chosen(data, name)) or "defaults"
    made[CHOOSES] = mean_validation(found)
    for metric in SHOWN:
        mean, lower, upper = interval(pd.Series([tested(one)[metric] for one in found]))
        made |= {metric: mean, f"{metric}_lower": lower, f"{metric}_upper": upper}
    seconds = [json.loads((one / "metrics.json").read_text())["fit_seconds"] for one in found]
    return made | {"fit_seconds": float(np.mean(seconds)), "commit": commit(*found)}


def mean_validation(found: list[Path]) -> float:
    return float(np.mean([validation(one)[CHOOSES] for one in found]))


def told(line: dict[str, Any]) -> dict[str, Any]:
    """A row for people: an interval over seeds where there are any."""
    made = {name: line[name] for name in ("data", "model", "trials", "settings")}
    made["trials"] = str(made["trials"])
    for metric in SHOWN:
        text = f"{line[metric]:.4g}"
        if metric.removeprefix("test/") in COMPARED and line["runs"] > 1:
            text += f" [{line[f'{metric}_lower']:.4g}, {line[f'{metric}_upper']:.4g}]"
        made[metric.removeprefix("test/")] = text
    return made | {"fit_seconds": line["fit_seconds"]}


def best_rival(data: str, rows: list[dict[str, Any]]) -> str:
    """The one that validates best, of those in the table; nothing where there are none."""
    rivals = [line for line in rows if line["data"] == data and not line["ours"]]
    return max(rivals, key=lambda line: line[CHOOSES])["model"] if rivals else ""


def samples(found: list[Path], metric: str, asked: np.ndarray | slice = slice(None)) -> QueryScores:
    """A metric of the test queries of a model's runs, for `paired_difference`.

    Raises:
        ValueError: the runs were tested on different queries.
    """
    tables = [pd.read_parquet(one / "test_queries.parquet") for one in found]
    if any(not table[QUERY].equals(tables[0][QUERY]) for table in tables):
        raise ValueError(f"{found[0].parent} has runs of different test queries")
    _, session = np.unique(tables[0]["session"].to_numpy()[asked], return_inverse=True)
    return QueryScores.of(np.stack([table[metric].to_numpy(np.float64)[asked] for table in tables]), session)


def samples_of_both(ours: list[Path], theirs: list[Path], metric: str) -> list[QueryScores]:
    """Those of two models.

    Raises:
        ValueError: they were tested on different queries.
    """
    asked = [pd.read_parquet(found[0] / "test_queries.parquet", columns=QUERY) for found in (ours, theirs)]
    if not asked[0].equals(asked[1]):
        raise ValueError(f"{ours[0].parent} and {theirs[0].parent} were tested on different queries")
    return [samples(found, metric) for found in (ours, theirs)]


def compared(runs: dict[tuple[str, str], list[Path]], data: str, ours: str, theirs: str) -> pd.DataFrame:
    """Query by query on the same test set: see `paired_difference`."""
    pairs = {metric: samples_of_both(runs[data, ours], runs[data, theirs], metric) for metric in COMPARED}
    rows: list[dict[str, Any]] = [
        {"data": data, "rival": theirs, "metric": metric, "ours": one.mean, "theirs": other.mean}
        | of(paired_difference(one, other, 0.95))
        for metric, (one, other) in pairs.items()
    ]
    return pd.DataFrame(rows)


def of(found: PairedDifference) -> dict[str, Any]:
    return {"difference": found.difference, "lower": found.lower, "upper": found.upper, "p": found.p_value}


def cold(runs: dict[tuple[str, str], list[Path]]) -> pd.DataFrame:
    """Convex less track where the track before, or the one that followed, was played fewer than COLD times."""
    plays = training_plays("polimi")
    queries = pd.read_parquet(runs["polimi", "convex"][0] / "test_queries.parquet")
    rows = []
    for side in ("previous", "following"):
        seen = queries[side].map(plays).fillna(0).to_numpy()
        for group, asked in (
            (f"fewer than {COLD}", seen < COLD),
            ("never", seen == 0),
            (f"{COLD} or more", seen >= COLD),
        ):
            for metric in ("recall_at_10", "recall_at_50"):
                one, other = (samples(runs["polimi", name], metric, asked) for name in ("convex", "track"))
                head = {"which": side, "training plays": group, "metric": metric, "queries": int(asked.sum())}
                rows.append(head | {"convex": one.mean, "track": other.mean} | of(paired_difference(one, other, 0.95)))
    return pd.DataFrame(rows)


def training_plays(data: str) -> pd.Series:
    """How often the training sessions play each track, by its id."""
    datamodule, _ = rehearsed(data, "popular", None)
    return pd.Series(datamodule.vocabulary.plays, index=datamodule.catalog.track_ids)


def rehearsed(data: str, name: str, run: Path | None) -> tuple[Any, Any]:
    """The data, and a model with the settings chosen for it: as it is before training, or with the weights of a run."""
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [*words(data, name), *chosen(data, name), f"run_dir={RUNS}"])
    datamodule = instantiate(config.datamodule, _convert_="all")
    datamodule.setup()
    model = instantiate(config.ranker, _convert_="all")(vocabulary=datamodule.vocabulary).eval()
    if run:
        model.load_state_dict(torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"])
    return datamodule, model


def write(name: str, table: pd.DataFrame) -> None:
    """Tests of a file keep their false alarms together (Holm)."""
    table["Holm's p"] = holm(table["p"].tolist())
    table.to_csv((HERE / name).with_suffix(".csv"), index=False)
    (HERE / name).write_text(markdown(table) + "\n", encoding="utf-8")


def draw(table: pd.DataFrame) -> None:
    from matplotlib import pyplot as plt

    sets, names = [data for data in DATA if data in set(table["data"])], list(MODELS)[::-1]
    figure, axes = plt.subplots(1, len(sets), figsize=(1.6 + 3.1 * len(sets), 4.6), sharey=True, squeeze=False)
    for axis, data in zip(axes[0], sets, strict=True):
        own = {line["model"]: line for line in table[table["data"] == data].to_dict("records")}
        best = max((name for name in own if not own[name]["ours"]), key=lambda name: own[name][CHOOSES], default=None)
        highest = np.nanmax([line[f"test/ndcg_at_10{end}"] for line in own.values() for end in ("", "_upper")])
        for place, name in enumerate(names):
            if (line := own.get(name)) is None:
                continue
            mean, lower, upper = (float(line[f"test/ndcg_at_10{end}"]) for end in ("", "_lower", "_upper"))
            colour = "#e07a1f" if line["ours"] else "#2a6f97"
            if lower == lower:
                axis.plot([lower, upper], [place, place], color=colour, linewidth=2.5, alpha=0.5, solid_capstyle="butt")
            axis.plot(mean, place, "o", color=colour, markersize=6)
            if name == best:
                axis.axvline(mean, color=colour, linewidth=0.8, linestyle=":")
        axis.set(title=data, xlabel="test ndcg@10", xlim=(0, 1.08 * highest), ylim=(-0.6, len(names) - 0.4))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_yticks(range(len(names)), names)
    figure.tight_layout()
    figure.savefig(HERE / "results.png", dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
