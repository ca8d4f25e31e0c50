"""How far do the classics of "who is listening" come on the logs of study.py, with the same queries and candidates?

    python experiments/listeners/rivals.py                     each log, with the trainings of study.py
    python experiments/listeners/rivals.py --only "habit 0.5"  one log

ALS (library implicit, `make .venv/.rivals`): confidence in the plays of listeners; the vector of a listener is folded
in from what they had played before the query. TIFU-kNN (Hu et al., SIGIR 2020): a session is a basket; the vector of a
listener is the mean of baskets with decay, mixed with the mean of the nearest listeners of training. Validation chooses
the settings of each by ndcg@10, for tracks after the first one and for first tracks. GRU4Rec over whole histories: all
that a listener has played is one session (`model=gru4rec datamodule.session_gap_minutes=1e9`, split by listeners, and
refitted to all of them), learned from the plays before those of validation; on the logs with habits alone. A line of
rivals.csv is one log, and one of whole.csv too.
"""

import json
import sys
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_array, csr_matrix

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.listeners.study import CONTEXTS, SHORT, folder_of, run, words_of
from experiments.listeners.study import STUDY as OF_LOGS
from experiments.studying import Study, append_rows, read_rows, run_python, sized
from segue.api.calling import call
from segue.datamodules.pairs.pairs import Pairs
from segue.histories import Histories
from segue.models.contracts import Queries
from segue.models.fitted import FittedModel
from segue.models.listener_part import MOST_PLAYS, own_plays
from segue.models.retrieval.ranks import ranks_by_plays, ranks_of_scores, ranks_of_vectors
from segue.reports.markdown import table
from segue.runs.targets import read_config
from segue.statistics.ranking import is_liked, is_query, ndcg_at, sample_sessions
from segue.training.train import read_data

STUDY = Study(__file__, __doc__)
RESULTS, WHOLE_RESULTS = STUDY.folder / "rivals.csv", STUDY.folder / "whole.csv"
LOGS = sized((("habit 0.5", "playlists", 1), ("habit 0", "playlists", 1), ("simulated", "playlists", 1)),
             (("habit 0.5", "playlists", 1),))  # fmt: skip
MOST_VALIDATED = 2500
ALS = [
    {"factors": factors, "alpha": alpha, "regularization": regularization}
    for factors, alpha, regularization in product(sized((32, 128), (8,)), (1.0, 10.0), (0.01, 1.0))
]
TIFU = [
    {"size": size, "within": 0.9, "between": between, "num": num, "own": own}
    for size, between, num, own in product((3, 7), (0.7, 0.95), sized((30, 300), (5,)), (0.5, 0.9))
]
"""Baskets of a group, decay within a group and between groups, nearest listeners, and the weight of the own vector."""
WHOLE = (
    "datamodule=table", "datamodule.units.timestamp=ms", "datamodule.session_gap_minutes=1e9",
    "datamodule.split=session", "recipe=playlists", "counted=none", "model=gru4rec",
    "recipe.context.max_length=200", "seed=1",
    *SHORT, "refit=all", "logger=none", "callbacks.plots=null", "callbacks.listening=null",
)  # fmt: skip
"""Of a training on whole histories."""
Ranks = Callable[["Asked"], np.ndarray]
"""The rank of the track that followed each query."""


class Asked(NamedTuple):
    """Queries: what was heard before, the track that followed, and whether it is the first one of a session."""

    histories: Histories
    following: np.ndarray
    is_first: bool

    @property
    def previous(self) -> np.ndarray | None:
        """The tracks that are no candidates."""
        return None if self.is_first else self.histories.previous


def asked(data: Any, split: str, most: int, *, is_first: bool) -> Asked:
    """The queries of a split: those of the test as `train.py` ranks them, `most` at most."""
    pairs: Pairs = data.first_tracks(split) if is_first else data.pairs[split]
    liked = is_liked(pairs.played_ratio) if is_first else is_query(pairs.previous, pairs.following, pairs.played_ratio)
    pairs = pairs.where(liked)
    if split == "val":
        pairs = pairs.where(np.arange(0, len(pairs), 1 + len(pairs) // MOST_VALIDATED))
    else:
        pairs = pairs.where(sample_sessions(pairs.session, most))
    return Asked(data.histories(pairs), pairs.following, is_first)


def als(data: Any, settings: Mapping[str, Any]) -> Ranks:
    """Learn the tracks of listeners in training."""
    listens, num = data.vocabulary.listens, len(data.catalog)
    owner = data.sessions.listener[listens.session]
    plays = csr_matrix((np.ones(len(owner), np.float32), (owner, listens.track)), (int(owner.max()) + 1, num))
    model = AlternatingLeastSquares(iterations=sized(15, 2), random_state=1, num_threads=1, **settings)
    model.fit(plays, show_progress=False)
    items = torch.from_numpy(model.item_factors)

    def ranks(of: Asked) -> np.ndarray:
        has_past = np.zeros(len(of.following), bool)

        def queries(first: int, end: int) -> Queries:
            own = csr_matrix(own_plays(of.histories.part(first, end), num, half_life=False), dtype=np.float32)
            has_past[first:end] = np.diff(own.indptr) > 0
            vectors = torch.from_numpy(model.recalculate_user(np.arange(end - first), own))
            rows = torch.arange(end - first)
            return Queries(vectors, rows, torch.from_numpy(of.histories.previous[first:end]), rows[:, None][:, :0])

        found = ranks_of_vectors(
            queries=queries,
            items=items,
            following=of.following,
            boosts=np.empty(0, np.float32),
            every=of.is_first,
        )
        return np.where(has_past, found, ranks_by_plays(data.vocabulary.plays, of.previous, of.following))

    return ranks


def baskets(
    owner: np.ndarray, session: np.ndarray, track: np.ndarray, shape: tuple[int, int], settings: Mapping[str, Any]
) -> csr_array:
    """The vectors of listeners: the mean of groups of baskets with decay, and within each that of its baskets."""
    size = settings["size"]
    whose, start = np.unique(np.stack([owner, session]), axis=1, return_inverse=True)
    num = np.bincount(whose[0], minlength=shape[0])
    age = num.cumsum()[whose[0]] - 1 - np.arange(whose.shape[1])  # sessions ascend
    group, place = age // size, age % size
    num_groups = -(-num // size)[whose[0]]
    in_group = np.where(group == num_groups - 1, num[whose[0]] - size * group, size)
    weight = settings["within"] ** place * settings["between"] ** group / in_group / num_groups
    basket, tracks = np.unique(np.stack([start.ravel(), track]), axis=1)
    return csr_array((weight[basket].astype(np.float32), (whose[0][basket], tracks)), shape=shape)


def tifu(data: Any, settings: Mapping[str, Any]) -> Ranks:
    """The vectors of the listeners of training."""
    listens, num = data.vocabulary.listens, len(data.catalog)
    others = np.unique(data.sessions.listener[listens.session])
    owner = np.searchsorted(others, data.sessions.listener[listens.session])
    vectors = baskets(owner, listens.session, listens.track, (len(others), num), settings)
    squares, nearest = vectors.multiply(vectors).sum(1), min(settings["num"], len(others) - 1)

    def ranks(of: Asked) -> np.ndarray:
        timeline = of.histories.timeline
        assert timeline is not None
        sessions, of_query = np.unique(timeline.session[of.histories.last], return_inverse=True)
        owner, event = timeline.earlier(sessions, MOST_PLAYS)
        tracks = of.histories.tracks[event]
        own = baskets(owner, timeline.session[event], tracks, (len(sessions), num), settings)
        distance = squares - 2 * (own @ vectors.T).toarray()  # and what is the same for all of a query
        distance[timeline.listener[sessions][:, None] == others] = np.inf
        chosen = np.argpartition(distance, nearest - 1, axis=1)[:, :nearest]
        line = np.arange(len(sessions)).repeat(nearest)
        mean = csr_array((np.full(line.size, 1 / nearest), (line, chosen.ravel())), shape=(len(sessions), len(others)))
        mixed = csr_array(settings["own"] * own + (1 - settings["own"]) * (mean @ vectors), dtype=np.float32)
        return ranks_of_scores(
            scores=lambda first, end: mixed[of_query[first:end]],
            plays=data.vocabulary.plays,
            previous=of.previous,
            following=of.following,
        )

    return ranks


def whole_histories(data: Any, folder: Path) -> Ranks:
    """Learn the histories of listeners, each as one session."""
    sessions, names, val = data.sessions, data.catalog.track_ids, data.pairs["val"]
    listens, owner = sessions.listens, sessions.listener[sessions.listens.session]
    is_before = sessions.timestamp < sessions.timestamp[val.last - val.length + 1].min()
    plays = {"user": owner, "timestamp": sessions.timestamp, "track": names[listens.track]}
    plays["artist"] = data.catalog.artist_of[listens.track]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(plays)[is_before].to_csv(folder / "plays.csv", index=False)
    run_python(["train.py", *WHOLE, f"datamodule.path={folder / 'plays.csv'}", f"run_dir={folder / 'run'}"])
    model = FittedModel.read(folder / "run", "gru4rec")
    by_listener = np.argsort(owner, kind="stable")  # and by time
    rows, place = model.catalog.rows_of(names)[listens.track[by_listener]], np.argsort(by_listener)
    events, num_known = by_listener[rows >= 0], np.append(0, (rows >= 0).cumsum())
    first = np.searchsorted(owner[events], np.arange(owner.max() + 1))

    def ranks(of: Asked) -> np.ndarray:
        newest = of.histories.last  # of a first track, itself
        end = num_known[place[newest] + (not of.is_first)]
        length, following = end - first[owner[newest]], model.catalog.rows_of(names)[of.following]
        is_ranked = (length > 0) & (following >= 0)
        last, tracks = end[is_ranked] - 1, rows[rows >= 0]
        histories = Histories(
            tracks=tracks,
            played_ratio=listens.played_ratio[events],
            last=last,
            length=length[is_ranked],
            previous=tracks[last],
        )
        found = ranks_by_plays(data.vocabulary.plays, of.previous, of.following)
        with torch.inference_mode():
            found[is_ranked] = model.ranker.ranks(histories, following[is_ranked], lambda _: None, every=of.is_first)
        return found

    return ranks


def measure(log: str, recipe: str, seed: int) -> None:
    """Choose settings on validation and rank the test queries; a line."""
    folders = {context: folder_of(log, recipe, seed, context) for context in CONTEXTS}
    for context, folder in folders.items():
        if not (folder / "metrics.json").is_file():
            run(log, recipe, seed, context)
    config = read_config(folders["listener"] / "config.yaml")
    data, most = instantiate(config["datamodule"], _convert_="all"), config["callbacks"]["ranking"]["max_test_queries"]
    data.prepare_data()
    data.setup("fit")
    both = (False, True)
    queries = {(split, of): asked(data, split, most, is_first=of) for split in ("val", "test") for of in both}
    line: dict[str, Any] = {"log": log, "recipe": recipe, "seed": seed}
    for name, learn, grid in (("als", als, ALS), ("tifu", tifu, TIFU)):
        learned = [(learn(data, settings), settings) for settings in grid]
        for is_first in both:
            gains = [ndcg_at(ranks(queries["val", is_first]), 10).mean() for ranks, _ in learned]
            ranks, settings = learned[int(np.argmax(gains))]
            found = float(ndcg_at(ranks(queries["test", is_first]), 10).mean())
            line |= {f"{name}_{'first' if is_first else 'next'}": round(found, 5)}
            line |= {f"{name}_{'first' if is_first else 'next'}_settings": json.dumps(settings)}
    metrics = {
        one: json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for one, folder in folders.items()
    }
    tested = pd.read_parquet(folders["listener"] / "test_queries.parquet")
    assert len(tested) == len(queries["test", False].following), "other queries"
    for floor in ("popular", "own", "own_recent"):
        line[f"{floor}_next"] = metrics["listener"][f"test/ndcg_at_10_{floor}_floor"]
        line[f"{floor}_first"] = metrics["listener"][f"test/ndcg_at_10_position_0_{floor}_floor"]
    line |= {f"{one}_next": of["test/ndcg_at_10"] for one, of in metrics.items()}
    line |= {"session_first": "", "listener_first": metrics["listener"]["test/ndcg_at_10_position_0"]}
    append_rows(RESULTS, [{**line, "commit": STUDY.commit()}])


def measure_whole(log: str, recipe: str, seed: int) -> None:
    """Rank the same queries by what was learned from whole histories; a line."""
    words = (*words_of(log, recipe, seed), f"recipe={recipe}", "context=listener", f"seed={seed}")
    (data, settings), _ = call(read_data, words)
    ranks = whole_histories(data, STUDY.work / f"{log.replace(' ', '-')}-{recipe}-{seed}-whole")
    line: dict[str, Any] = {"log": log}
    for is_first, end in ((False, "next"), (True, "first")):
        of = asked(data, "test", settings["max_test_queries"], is_first=is_first)
        floor = ranks_by_plays(data.vocabulary.plays, of.previous, of.following)
        line |= {f"gru4rec_{end}": float(ndcg_at(ranks(of), 10).mean())}
        line |= {f"popular_{end}": float(ndcg_at(floor, 10).mean())}
    append_rows(WHOLE_RESULTS, [{**line, "commit": STUDY.commit()}])


def report() -> None:
    """Write rivals.md."""
    whole = {line["log"]: line for line in read_rows(WHOLE_RESULTS)}
    names = {
        "popular": "most played",
        "own": "`own`",
        "own_recent": "`own_recent`",
        "als": "ALS",
        "tifu": "TIFU-kNN",
        "gru4rec": "GRU4Rec",
    }
    names |= {one: f"`context={one}`" for one in ("session", "listener")}
    rows = [
        [
            line["log"],
            kind,
            *(f"{float(line[f'{name}_{end}']):.4f}" if line.get(f"{name}_{end}") else "" for name in names),
        ]
        for line in (whole.get(line["log"], {}) | line for line in read_rows(RESULTS))
        for kind, end in (("after the first", "next"), ("first", "first"))
    ]
    text = ["# Rivals", "", f"Written by `{STUDY.command}`. ndcg@10 of the test; seed 1, one training each.", ""]
    STUDY.write_table("rivals.md", text + table(["log", "tracks", *names.values()], rows, "ll" + "r" * len(names)))
    STUDY.write_provenance("rivals_provenance.json")


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = STUDY.parser()
    parser.add_argument("--only", help="one log")
    given = STUDY.parse(parser)
    OF_LOGS.work = sized(OF_LOGS.work, STUDY.work)  # with --smoke both run at once
    for of, path in ((measure, RESULTS), (measure_whole, WHOLE_RESULTS)):
        done = {line["log"] for line in read_rows(path)}
        for log, recipe, seed in LOGS:
            if log not in done and given.only in (None, log) and (of is measure or log.startswith("habit")):
                print(f"{log}, recipe={recipe}, seed={seed}", flush=True)
                of(log, recipe, seed)
    report()


if __name__ == "__main__":
    STUDY.run(main)
