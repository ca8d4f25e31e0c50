"""The sessions of earlier days, read from their logs: what listeners remember when a run continues another one."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json as pj
from jaxtyping import Int64

from segue.catalog import keys_of
from segue.errors import InputError
from segue.simulation.listener import WHOLE
from segue.simulation.traffic import Plays
from segue.simulation.world import World


def past_days(folders: Iterable[Path], world: World) -> Iterator[tuple[int, Plays, Int64[np.ndarray, "E"]]]:
    """Read one day after another.

    Args:
        folders: of the logs of a run of `simulate.py`, `day-<n>`.
        world: the world of the run.

    Yields:
        Number of the day, its sessions, those of a listener in order of time, and the time of each play (E), in
        milliseconds since 1970.

    Raises:
        InputError: a log cannot be read.
    """
    for day, path in sorted((int(folder.name.removeprefix("day-")), folder / "data.json") for folder in folders):
        lines = _read(path, world)
        for name, rows_of in (("user", world.listeners.rows_of), ("track", world.catalog.rows_of)):
            codes, ids = pd.factorize(lines[name])
            lines[name] = rows_of(keys_of(ids.tolist()))[codes]
        lines = lines.sort_values(["user", "timestamp"], kind="stable")  # of equal times, as they are in the log
        shares = np.rint(lines["time"].to_numpy() * WHOLE).astype(np.uint8)
        ends = np.flatnonzero(lines["message"] == "last")
        users = lines["user"].to_numpy(np.int64)[ends]
        plays = Plays(
            users=users,
            visits=np.arange(len(users)) - np.searchsorted(users, users),
            lengths=np.diff(ends, prepend=-1),
            hundredths=np.diff(shares.cumsum(dtype=np.int64)[ends], prepend=0),
            tracks=lines["track"].to_numpy(np.int32),
            shares=shares,
            propensities=np.full(len(shares), np.nan),
        )
        yield day, plays, lines["timestamp"].to_numpy()


def _read(path: Path, world: World) -> pd.DataFrame:
    columns = {"message": pa.string(), "timestamp": pa.int64(), "time": pa.float64()}
    for name, ids in (("user", world.listeners.user_ids), ("track", world.catalog.track_ids)):
        columns[name] = pa.string() if ids.dtype == object else pa.int64()
    options = pj.ParseOptions(explicit_schema=pa.schema(columns), unexpected_field_behavior="ignore")
    try:
        table = pj.read_json(path, parse_options=options) if path.stat().st_size else pa.schema(columns).empty_table()
        return cast(pd.DataFrame, table.to_pandas())
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"cannot read {path}: {str(error)[:200]}; repeat the run of this day") from None
