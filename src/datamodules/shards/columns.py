"""The columns of shards: `.npy` files that are mapped into memory, as many pairs as the disk holds.

n numbers.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

LISTENS = ("session", "track", "played_ratio")
PAIR = ("session", "listener", "previous", "following", "played_ratio", "last", "length")
TABLES = {"event": (*LISTENS, "timestamp", "place"), "session": ("listener", "part"), "heard": LISTENS, "pair": PAIR}
"""The columns of each table. `event` has all events, `session` all sessions in the order of their starts, and `pair`
the pairs of training, then those of validation, then those of the test; see `Pairs`. `heard` has the events of training
where its sessions are not the first ones."""
_KINDS: dict[str, np.dtype[Any]] = {"played_ratio": np.dtype("<f4"), "part": np.dtype("<i1")}  # the others are int64
_NUMBER: np.dtype[Any] = np.dtype("<i8")


class GrowingColumn:
    """An `.npy` file to whose end numbers are written.

    Args:
        path: `<table>-<column>.npy`.
    """

    def __init__(self, path: Path) -> None:
        self._kind = _KINDS.get(path.stem.rpartition("-")[2], _NUMBER)
        self._file, self._length = path.open("wb"), 0
        self._write_header()

    def append(self, numbers: Shaped[np.ndarray, "n"]) -> None:
        """Write more numbers."""
        self._length += len(numbers)
        self._file.write(np.ascontiguousarray(numbers, self._kind).data)

    def close(self) -> None:
        """Write how many they are; numpy leaves room for that. Later calls do nothing."""
        if not self._file.closed:
            self._file.seek(0)
            self._write_header()
            self._file.close()

    def _write_header(self) -> None:
        header = {"descr": self._kind.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def mapped(folder: Path, table: str, column: str) -> Any:
    """A column that is read from its file where it is looked at; what is written into it is not kept."""
    return np.load(folder / f"{table}-{column}.npy", mmap_mode="c").view(np.ndarray)
