"""From event logs to sessions to pairs.

All contenders return the same arrays of pairs, sorted by the start of their session. Only Segue also checks each line,
writes rejected lines to a file, and maps tracks to rows of the catalogue.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from experiments.studying import composed, sized
from experiments.throughput.race import Contender, Stage, Work, work_of
from experiments.throughput.stages.logs import logs_of, make_logs

GAP_MS = 30 * 60_000
Arrays = tuple[np.ndarray, ...]
"""Session, previous track, following track and share played of each pair."""


def make(folder: Path, small: bool) -> None:
    num_events, num_users = sized((400_000, 2_000) if small else (3_000_000, 10_000), (2_000, 20))
    make_logs(folder, num_events=num_events, num_users=num_users)


def ours(folder: Path, small: bool) -> Work:  # noqa: ARG001 - all contenders are prepared alike
    """As `train.py` does it, from files to arrays; `pairing=consecutive`."""
    from segue.datamodules.pairs.pair_rules import PairRules, Policies
    from segue.datamodules.pairs.pairs import make_pairs
    from segue.datamodules.pairs.sessions import cut_sessions
    from segue.datamodules.reading.rejected_rows import Rejections
    from segue.datamodules.reading.table import read_table
    from segue.datamodules.reading.table_settings import settings_in

    rules = PairRules(policies=Policies(), pairing="consecutive", split="auto")
    settings = settings_in(composed("train", "datamodule=botify", f"run_dir={folder}").datamodule)
    rejections = Rejections(path=folder / "rejected.jsonl")

    def work() -> float:
        with read_table(str(folder), settings, rejections=rejections) as source:
            sessions = cut_sessions(source, rules)
        make_pairs(sessions, rules)
        return float(source.reading.num_events)

    return work


def sheet_pairs(path: Path, num_lines: int) -> Arrays:
    """One row at a time, user by user, as in the notebooks of 2023."""
    import pandas as pd

    frame = pd.read_json(path, lines=True, nrows=num_lines, convert_dates=False)
    sessions = []
    for _, events in frame.groupby("user"):
        session: list[Any] = []
        for _, row in events.sort_values("timestamp").iterrows():
            if session and row["timestamp"] - session[-1]["timestamp"] > GAP_MS:
                sessions.append(session)
                session = []
            session.append(row)
            if row["message"] == "last":
                sessions.append(session)
                session = []
        if session:
            sessions.append(session)
    sessions.sort(key=lambda session: session[0]["timestamp"])
    pairs = [
        (number, before["track"], after["track"], after["time"])
        for number, session in enumerate(sessions)
        for before, after in pairwise(session)
    ]
    return tuple(map(np.array, zip(*pairs, strict=True)))


def pandas_pairs(path: Path, num_lines: int) -> Arrays:
    """Whole columns: `shift`, `cumsum`, `groupby`."""
    import pandas as pd

    frame = pd.read_json(path, lines=True, nrows=num_lines, convert_dates=False)
    frame = frame.sort_values(["user", "timestamp"], kind="stable")
    by_user = frame.groupby("user")
    begins = (by_user.cumcount() == 0) | (frame["message"].shift() == "last") | (frame["timestamp"].diff() > GAP_MS)
    session = begins.cumsum()
    frame["previous"] = frame["track"].shift()
    frame["started"] = frame["timestamp"].where(begins).ffill()
    frame["session"] = session
    pairs = frame[~begins].sort_values(["started", "session"], kind="stable")
    number = (pairs["session"] != pairs["session"].shift()).cumsum() - 1
    columns = (number, pairs["previous"].astype("int64"), pairs["track"], pairs["time"].astype("float32"))
    return tuple(column.to_numpy() for column in columns)


def polars_pairs(paths: list[Path]) -> Arrays:
    """A lazy query over whole columns; `shift` and `forward_fill` on sorted rows were faster than `over`."""
    import polars as pl

    schema = {"message": pl.String, "timestamp": pl.Int64, "user": pl.Int64, "track": pl.Int64, "time": pl.Float64}
    begins = (
        (pl.col("user") != pl.col("user").shift())
        | (pl.col("message").shift() == "last")
        | (pl.col("timestamp").diff() > GAP_MS)
    ).fill_null(True)
    pairs = (
        pl.scan_ndjson(paths, schema=schema)
        .sort("user", "timestamp", maintain_order=True)
        .with_columns(begins=begins, previous=pl.col("track").shift())
        .with_columns(started=pl.when("begins").then("timestamp").forward_fill())
        .filter(~pl.col("begins"))
        .sort("started", "user", maintain_order=True)
        .select(pl.struct("started", "user").rle_id(), "previous", "track", pl.col("time").cast(pl.Float32))
        .collect()
    )
    return tuple(pairs[name].to_numpy() for name in pairs.columns)


def read_only(paths: list[Path]) -> int:
    """Read the bytes, then parse and sum five fields with the fastest reader; keep nothing.

    3 M lines on two idle cores: DuckDB 0.6 s, Polars 1.05, pyarrow 1.5, pysimdjson 1.8, orjson 2.6; the bytes 0.3.
    """
    import duckdb

    for path in paths:
        path.read_bytes()
    columns = "{message: 'VARCHAR', timestamp: 'BIGINT', user: 'BIGINT', track: 'BIGINT', time: 'DOUBLE'}"
    query = f"""SELECT count(message), sum(timestamp), sum("user"), sum(track), sum(time)
                FROM read_json($files, format = 'newline_delimited', columns = {columns})"""
    row = duckdb.execute(query, {"files": [str(path) for path in paths]}).fetchone()
    assert row is not None
    return int(row[0])


def sheet(folder: Path, small: bool) -> Work:
    num_lines = sized(5_000 if small else 40_000, 500)
    return work_of(num_lines, sheet_pairs, logs_of(folder)[0], num_lines)


def pandas(folder: Path, small: bool) -> Work:
    num_lines = sized(50_000 if small else 400_000, 500)
    return work_of(num_lines, pandas_pairs, logs_of(folder)[0], num_lines)


def polars(folder: Path, small: bool) -> Work:  # noqa: ARG001
    num_events = read_only(logs_of(folder))
    return work_of(num_events, polars_pairs, logs_of(folder))


def limit(folder: Path, small: bool) -> Work:  # noqa: ARG001
    return lambda: read_only(logs_of(folder))


STAGES = [
    Stage(
        name="events → sessions → pairs",
        unit="events",
        make=make,
        ours=Contender(name="Segue", prepare=ours),
        rivals=[
            Contender(name="pandas, row by row", prepare=sheet, at_least=100),
            Contender(name="pandas, whole columns", prepare=pandas, at_least=5),
            Contender(name="Polars", prepare=polars, at_least=1),
        ],
        limits=[Contender(name="bytes read, JSON parsed", prepare=limit)],
    )
]
