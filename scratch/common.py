"""Fast loop: data once, plain torch, in-process play."""
import os, sys, time, json
os.environ.setdefault("OMP_NUM_THREADS", "1")
from pathlib import Path
import numpy as np, torch
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from types import SimpleNamespace as NS
torch.set_num_threads(1)
S = ROOT / "scratch"

def world(name="published"):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return instantiate(compose("simulate", [f"world={name}"]).world, _convert_="all")

def cache(folder, out, experiment="MIXED", arms=4):
    """Sessions of a log as flat arrays: user, session (in time order), track, share, split."""
    from src.datamodules.events import read_events
    from src.datamodules.pairs import make_pairs, split_sessions
    log = read_events(reader="botify", folder=Path(folder), max_rejected=0.01, rejected_path=S / "rejected.jsonl")
    sessions, pairs = make_pairs(log.database, pairing="first", window=3, session_gap_minutes=30.0)
    s2, cons = make_pairs_again(log, "consecutive")
    part = split_sessions(sessions, split="time", seed=0)
    user = np.array([int(str(k).split("/")[0]) for k in sessions.key])
    np.savez(out, session=pairs.session.astype(np.int32), first=pairs.previous.astype(np.int32), following=pairs.following.astype(np.int32),
             before=cons.previous.astype(np.int32), share=pairs.played_ratio, part=part, user_of=user.astype(np.int32))

def make_pairs_again(log, pairing):
    from src.datamodules.pairs import make_pairs
    for t in ("settings", "listens", "sessions"):
        log.database.execute(f"DROP TABLE {t}")
    return make_pairs(log.database, pairing=pairing, window=3, session_gap_minutes=30.0)

def nearest2(queries, items, rows, k, exclude_self=True, group=64, cells=2**20, boost=None):
    """Exact top k by inner product, as src.simulation.neighbours but with two tables."""
    queries = np.ascontiguousarray(queries, np.float32); items = np.ascontiguousarray(items, np.float32)
    n = len(items); g = -(-n // group)
    cand = np.ascontiguousarray(items.T)
    chunk = max(1, cells // (g * group))
    aff = np.full((chunk, g * group), -np.inf, np.float32)
    out = np.empty((len(rows), k), np.int32)
    best = lambda v, k: np.argpartition(v, -k, axis=1)[:, -k:] if k < v.shape[1] else np.broadcast_to(np.arange(v.shape[1]), v.shape)
    for s in range(0, len(rows), chunk):
        r = rows[s:s + chunk]; part = aff[:len(r)]
        part[:, :n] = queries[r] @ cand
        if exclude_self: part[np.arange(len(r)), r] = -np.inf
        grouped = part.reshape(len(r), g, group)
        gr = best(grouped.max(2), min(k, g))
        mem = np.take_along_axis(grouped, gr[:, :, None], 1).reshape(len(r), -1)
        b = best(mem, k)
        o = np.argsort(-np.take_along_axis(mem, b, 1), axis=1, kind="stable")
        b = np.take_along_axis(b, o, 1)
        out[s:s + chunk] = np.take_along_axis(gr, b // group, 1) * group + b % group
    return out

from src.simulation.policies import Policy, Random, StickyArtist, Popular, TrueNeighbours, Oracle
from src.simulation.traffic import Day, play
from src.simulation.experiment import Tally
from src.recommendations import pick as pick_

class L(Policy):
    """Lists with a picking rule; lists are made lazily from vectors or given."""
    def __init__(self, world, lists, how="uniform", gap=0, **kw):
        super().__init__(world=world); self.lists, self.how, self.gap = lists, how, gap
    def recommend(self, crowd):
        c = self.lists[crowd.current]; ok = c >= 0
        if self.how != "uniform":
            for played in crowd.tracks: ok &= c != played[:, None]
        if self.gap:   # artists of the last `gap` tracks are kept out, while something is left
            ao = self.world.catalog.artist_of[np.maximum(c, 0)]; spaced = ok.copy()
            for a in crowd.artists[-self.gap:]: spaced &= ao != a[:, None]
            some = spaced.any(1); ok[some] = spaced[some]
        how = "uniform" if self.how == "uniform_norepeat" else self.how
        p = pick_(how, ok, self.rng.random(len(crowd)))
        t = c[np.arange(len(crowd)), p].astype(np.int64)
        none = np.flatnonzero(p < 0); t[none] = self._any_track(len(none)); self.fallbacks += len(none)
        return t

def play_policy(world, policy, sessions=20000, seed=77, arms=1, cap=None):
    day = Day.plan(world, day=1, sessions=sessions, experiment="X", arms=["C"], seed=seed)
    tally = Tally(len(world.listeners))
    for shard in day.shards:
        for task in shard:
            for p in play(world, policy, task, keep_events=False): tally.add(p)
    s = tally.summary(np.arange(len(world.listeners)))
    return NS(mean=s["mean_time_per_session"], lo=s["mean_time_per_session_lower"], hi=s["mean_time_per_session_upper"], tracks=s["mean_tracks_per_session"], fallbacks=policy.fallbacks, tally=tally)

def describe(lists, world, plays=None):
    n = len(world.catalog); ao = world.catalog.artist_of
    rank = np.empty(n); rank[world.top_tracks] = np.arange(1, n + 1)
    ok = lists[:, :10] >= 0
    return dict(cov10=len(np.unique(lists[:, :10])) / n, pop10=float(rank[lists[:, :10]].mean()), same10=float((ao[lists[:, :10]] == ao[:, None]).mean()),
                same50=float((ao[lists] == ao[:, None]).mean()))
def fmt(r): return f"{r.mean:.2f} [{r.lo:.2f}, {r.hi:.2f}]"
def log(text):
    print(text, flush=True)
    with open(S / "LOG.md", "a") as f: f.write(f"{time.strftime('%H:%M:%S')} {text}\n")
