"""The sessions of earlier days, read from their logs: what listeners remember when a run continues another one."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
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
    numbered = ((int(folder.name.removeprefix("day-")), folder) for folder in folders)
    id_type = {name: pa.string() if ids.dtype == object else pa.int64()
               for name, ids in (("user", world.listeners.user_ids), ("track", world.catalog.track_ids))}  # fmt: skip
    schema = pa.schema({"message": pa.string(), "timestamp": pa.int64(), **id_type, "time": pa.float64()})
    for day, folder in sorted(numbered):
        path = folder / "data.json"
        options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        try:
            lines = pj.read_json(path, parse_options=options) if path.stat().st_size else schema.empty_table()
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"cannot read {path}: {str(error)[:200]}; repeat the run of this day") from None
        users, tracks = (_rows_of(lines[name]) for name in ("user", "track"))
        listener = world.listeners.rows_of(users[0])[users[1]]
        order = np.lexsort((lines["timestamp"].to_numpy(), listener))  # of equal times, as they are in the log
        ends = np.flatnonzero(pa.compute.equal(lines["message"], "last").to_numpy(zero_copy_only=False)[order])
        lengths = np.diff(ends, prepend=-1)
        own = listener[order][ends]
        visits = np.arange(len(own)) - np.searchsorted(own, own)
        shares = np.rint(lines["time"].to_numpy() * WHOLE).astype(np.uint8)[order]
        yield (
            day,
            Plays(
                users=own,
                visits=visits,
                lengths=lengths,
                hundredths=np.add.reduceat(shares, np.append(0, ends[:-1] + 1), dtype=np.int64) if len(ends) else ends,
                tracks=world.catalog.rows_of(tracks[0])[tracks[1]][order].astype(np.int32),
                shares=shares,
                propensities=np.full(len(shares), np.nan),
            ),
            lines["timestamp"].to_numpy()[order],
        )


def _rows_of(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The keys of the distinct ids, and the number of that of each line."""
    coded = column.combine_chunks().dictionary_encode()
    return keys_of(coded.dictionary.to_pylist()), coded.indices.to_numpy()
