"""From events to the rows of shards: the steps of `PairDataModule` as queries, for any engine.

The queries are the files of `sql/`. What no query can compute, such as the hash that splits sessions at random, is
computed here from small results and given back to the engine. N tracks, S sessions, P pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int8

from segue.datamodules.new_tracks import hidden_tracks
from segue.datamodules.pairs.engines import Engine
from segue.datamodules.pairs.interleaved import separate
from segue.datamodules.pairs.pair_rules import PairRules
from segue.datamodules.reading.table import SourceEvents
from segue.datamodules.splits import in_shares, split_pairs
from segue.errors import InputError

_SQL = Path(__file__).parent / "sql"
_SEPARATED_AT_ONCE = 4_000_000
"""Events of users with interleaved sessions that are in memory at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Rows:
    """What is known of the table `rows`.

    Args:
        num_sessions: number of sessions (S).
        num_events: number of events of all sessions.
        num_rows: number of rows.
        num_listeners: number of listeners.
        num_interleaved: number of sessions that ran at the same time as another one of their user.
        num_tied: number of events with the timestamp of the event before them.
        has_clock: whether the source has timestamps.
        by_pair: whether single pairs are split, not sessions.
        dropped: number of events (of pairs) that each rule left out.
        hidden: True for each track that is hidden from training.
    """

    num_sessions: int
    num_events: int
    num_rows: int
    num_listeners: int
    num_interleaved: int
    num_tied: int
    has_clock: bool
    by_pair: bool
    dropped: Mapping[str, int]
    hidden: Bool[np.ndarray, "N"]


def make_rows(engine: Engine, source: SourceEvents, rules: PairRules, folder: Path) -> Rows:
    """Make the table `rows` of an engine; see `engines.ROW`.

    Args:
        engine: runs the queries.
        source: the events.
        rules: which pairs they make.
        folder: for files that the engine needs until the end.

    Returns:
        Counts.

    Raises:
        InputError: the engine cannot be started, or the source has no pairs or no clock for its split.
    """
    return _Steps(engine, source, rules).run(folder)


class _Steps:
    def __init__(self, engine: Engine, source: SourceEvents, rules: PairRules) -> None:
        self._engine, self._source, self._rules = engine, source, rules
        self._roles = source.reading.columns
        self._has_clock = "timestamp" in self._roles
        self._dropped: dict[str, int] = {}
        self._settings: dict[str, int | bool] = {
            "session_gap_ms": rules.session_gap_ms,
            "has_clock": self._has_clock,
            "pair_window": rules.window,
            "longest_session": rules.policies.longest_session or 0,
            "min_sessions": rules.policies.min_sessions,
            "keeps_self_pairs": rules.policies.self_pairs == "keep",
        }

    def run(self, folder: Path) -> Rows:
        rules, engine = self._rules, self._engine
        split = rules.split if rules.split != "auto" else "time" if self._has_clock else "session"
        if split == "time" and not self._has_clock:
            raise InputError("split=time needs timestamps, and this source has none; use datamodule.split=session")
        engine.begin(self._source, folder)
        engine.table("settings", "SELECT " + ", ".join(f"{_literal(v)} AS {k}" for k, v in self._settings.items()))
        num_interleaved, num_tied = self._cut_sessions()
        engine.table("listeners", _sql("listeners"))
        self._apply_policies()
        hidden = np.zeros(len(self._source.catalog), bool)
        if split == "pair":
            engine.table("numbered", _sql("number_sessions"))
            engine.table("sessions", "SELECT numbered.*, CAST(-1 AS TINYINT) AS part FROM numbered")
            self._pairs_in_parts()
        else:
            self._split_sessions(split)
            hidden = self._after_split()
            self._pairs()
        engine.table("rows", _sql("rows"))
        found = engine.fetch("SELECT COUNT(*) AS num_rows, COALESCE(MAX(listener), -1) AS listener FROM rows")
        return Rows(
            num_sessions=self._count("sessions"),
            num_events=self._count("listens"),
            num_rows=int(found["num_rows"][0]),
            num_listeners=int(found["listener"][0]) + 1,
            num_interleaved=num_interleaved,
            num_tied=num_tied,
            has_clock=self._has_clock,
            by_pair=split == "pair",
            dropped=self._dropped,
            hidden=hidden,
        )

    def _count(self, table: str, where: str = "TRUE") -> int:
        return int(self._engine.fetch(f"SELECT COUNT(*) AS num FROM {table} WHERE {where}")["num"][0])

    def _cut_sessions(self) -> tuple[int, int]:
        """Make `listens`. Returns the numbers of interleaved sessions and of ties."""
        engine, policies, num_tied = self._engine, self._rules.policies, 0
        num_read = self._count("events")
        if self._has_clock and policies.duplicates == "drop":
            engine.table("events", _sql("duplicates"))
        self._dropped["duplicates"] = num_read - self._count("events")
        engine.view("ordered", _sql("order"))
        if self._has_clock and "session" in self._roles:
            engine.table("ordered", _sql("together"))
        num_interleaved = 0
        if "recommendation" not in self._roles:
            engine.view("marked", _sql("begins"))
        else:
            engine.table("marked", _sql("begins"))
            num_interleaved = self._separate()
        if self._has_clock:
            tied = """SELECT COUNT(*) AS num FROM (
                SELECT timestamp - LAG(timestamp) OVER (PARTITION BY user_id ORDER BY nth) AS pause FROM ordered
            ) AS pauses WHERE pause = 0"""
            num_tied = int(engine.fetch(tied)["num"][0])
        engine.table("listens", _sql("sessions"))
        if self._source.reading.share == "gap":
            engine.table("listens", _sql("gap_shares"))
        return num_interleaved, num_tied

    def _separate(self) -> int:
        """Separate sessions of one user at the same time in `marked`."""
        engine, policy, gap_ms = self._engine, self._rules.policies.interleaved, self._rules.session_gap_ms
        self._dropped["interleaved"] = 0
        engine.table("interleaving", _sql("interleaving"))
        num_events = self._count("marked", "user_id IN (SELECT user_id FROM interleaving)")
        num_parts = max(1, -(-num_events // _SEPARATED_AT_ONCE))
        kept: dict[str, list[np.ndarray]] = {"position": [], "nth": [], "begins": []}
        num_sessions = 0
        for part in range(num_parts if num_events else 0):
            events = engine.fetch(f"""
                SELECT user_id, position, timestamp, track, recommendation, is_last, begins FROM marked
                WHERE user_id IN (SELECT user_id FROM interleaving) AND MOD(ABS(user_id), {num_parts}) = {part}
                ORDER BY user_id, nth""")
            if not len(events["user_id"]):
                continue
            result = separate(events, events["begins"].astype(bool), policy=policy, gap_ms=gap_ms)
            num_sessions += result.num_sessions
            kept["position"].append(result.events["position"])
            kept["nth"].append(np.arange(len(result.begins)))
            kept["begins"].append(result.begins.astype(np.int32))
        if num_sessions and policy != "keep":
            columns = {f"{name}_separated": np.concatenate(parts) for name, parts in kept.items()}
            self._dropped["interleaved"] = num_events - len(columns["nth_separated"])
            engine.upload("separated", columns)
            engine.table("marked", _sql("separated"))
        return num_sessions

    def _leave_out(self, step: str, *, name: str, has_gaps: bool = True) -> None:
        before = self._count("listens")
        self._engine.table("listens", _sql(step))
        self._dropped[name] = before - self._count("listens")
        if has_gaps:
            self._engine.table("listens", _sql("places"))

    def _apply_policies(self) -> None:
        policies = self._rules.policies
        if policies.repeats == "drop":
            self._leave_out("repeats", name="repeats")
        if policies.longest_session is not None:
            self._leave_out("longest_session", name="longest_session", has_gaps=False)
        if policies.min_sessions > 1:
            self._leave_out("min_sessions", name="min_sessions", has_gaps=False)

    def _split_sessions(self, split: str) -> None:
        self._engine.table("numbered", _sql("number_sessions"))
        num = self._count("numbered")
        parts = in_shares(num)
        if split == "session":
            found = self._engine.fetch("SELECT user_of_session, number_of_user FROM numbered ORDER BY nth")
            by_hash = np.argsort(self._hashes(found), kind="stable")
            parts[by_hash] = parts.copy()
            self._engine.upload("parts", {"nth_in_part": np.arange(num), "part": parts})
            query = "SELECT numbered.*, part FROM numbered INNER JOIN parts ON nth = nth_in_part"
        else:
            val, test = (int(np.searchsorted(parts, part)) for part in (1, 2))
            part = f"CASE WHEN nth < {val} THEN 0 WHEN nth < {test} THEN 1 ELSE 2 END"
            query = f"SELECT numbered.*, CAST({part} AS TINYINT) AS part FROM numbered"
        self._engine.table("sessions", query)

    def _hashes(self, found: Mapping[str, np.ndarray]) -> np.ndarray:
        names = self._source.user_names
        users = found["user_of_session"] if names is None else names[found["user_of_session"]]
        pairs = zip(users.tolist(), found["number_of_user"].tolist(), strict=True)
        keys = np.array([f"{user}/{number}" for user, number in pairs], object)
        return np.asarray(
            pd.util.hash_array(keys, hash_key=f"{self._rules.split_seed:016d}", categorize=False), np.uint64
        )

    def _after_split(self) -> Bool[np.ndarray, "N"]:
        """Shares of the longest play, rare tracks, hidden tracks: what is known from training sessions alone."""
        rules, engine, num_tracks = self._rules, self._engine, len(self._source.catalog)
        hidden = np.zeros(num_tracks, bool)
        if self._source.reading.share == "longest":
            self._longest("listens INNER JOIN sessions ON session = session_key WHERE part = 0", "track")
        if rules.policies.min_count > 1:
            rare = self._plays() < rules.policies.min_count
            self._leave_tracks_out(rare, only_in_training=False)
            self._leave_out("left_out", name="min_count")
        if rules.cold_share:
            catalog = self._source.catalog
            hidden = hidden_tracks(catalog, self._plays(), cold_share=rules.cold_share, cold_seed=rules.cold_seed)
            self._leave_tracks_out(hidden, only_in_training=True)
            self._leave_out("left_out", name="cold_share")
        if rules.policies.min_count > 1 or rules.cold_share:
            engine.table("parts", "SELECT session_key AS session_in_part, part FROM sessions")
            engine.table("numbered", _sql("number_sessions"))
            query = "SELECT numbered.*, part FROM numbered INNER JOIN parts ON session_key = session_in_part"
            engine.table("sessions", query)
        return hidden

    def _plays(self) -> np.ndarray:
        """Number of plays of each track in training sessions."""
        return self._counts("listens INNER JOIN sessions ON session = session_key WHERE part = 0", "track")

    def _counts(self, source: str, column: str) -> np.ndarray:
        found = self._engine.fetch(f"SELECT {column} AS track, COUNT(*) AS num FROM {source} GROUP BY {column}")
        counts = np.zeros(len(self._source.catalog), np.int64)
        counts[found["track"]] = found["num"]
        return counts

    def _leave_tracks_out(self, chosen: Bool[np.ndarray, "N"], *, only_in_training: bool) -> None:
        rows = np.flatnonzero(chosen)
        columns = {"track_left_out": rows, "only_in_training": np.full(len(rows), only_in_training)}
        self._engine.upload("left_out", columns)

    def _longest(self, source: str, column: str) -> None:
        """Replace times played by shares of the longest play of the track in training."""
        played = (
            "SELECT {0} AS track_of_longest, MAX(played_ratio) AS longest FROM {1} AND played_ratio > 0 GROUP BY {0}"
        )
        self._engine.table("longest", played.format(column, source))
        self._engine.table("listens", _sql("longest_shares"))

    def _pairs(self) -> None:
        engine = self._engine
        engine.view("pairs", _sql(f"pairs_{self._rules.pairing}"))
        engine.table("pairs", _sql("kept_pairs"))
        if self._rules.policies.self_pairs == "drop":
            self._dropped["self_pairs"] = self._count("pairs", "NOT is_kept")

    def _pairs_in_parts(self) -> None:
        engine, policies = self._engine, self._rules.policies
        engine.view("pairs", _sql(f"pairs_{self._rules.pairing}"))
        engine.table("pairs", _sql("number_pairs"))
        num = self._count("pairs")
        parts: Int8[np.ndarray, P] = split_pairs(num, seed=self._rules.split_seed)
        engine.upload("parts", {"pair_in_part": np.arange(num), "part_of_pair": parts})
        engine.table("pairs", _sql("pairs_in_parts"))
        train = "pairs WHERE part_of_pair = 0"
        if self._source.reading.share == "longest":
            self._longest(train, "following")
            engine.table("pairs", _sql("longest_shares_of_pairs"))
        rare = self._counts(train, "following") < (policies.min_count if policies.min_count > 1 else 0)
        self._leave_tracks_out(rare, only_in_training=False)
        engine.table("pairs", _sql("kept_pairs_in_parts"))
        num_rare = self._count(
            "pairs",
            "previous IN (SELECT track_left_out FROM left_out) OR following IN (SELECT track_left_out FROM left_out)",
        )
        self._dropped["min_count"] = num_rare
        if policies.self_pairs == "drop":
            self._dropped["self_pairs"] = self._count("pairs", "NOT is_kept") - num_rare


def _sql(name: str) -> str:
    return (_SQL / f"{name}.sql").read_text(encoding="utf-8")


def _literal(value: int | bool) -> str:
    return ("TRUE" if value else "FALSE") if isinstance(value, bool) else f"CAST({value} AS BIGINT)"
