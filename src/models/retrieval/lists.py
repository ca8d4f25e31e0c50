"""Lists that are searched for in blocks of queries, and kept in files, so that memory has few and a kill loses few.

N tracks of the catalogue, Q queries, K candidates of a list, B queries of a block.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from segue.errors import InputError
from segue.runs.atomic import write_text, write_whole

BLOCKS_OF_A_PART = 128
"""Blocks of a search whose lists are in one file; a block has at most 512 lists."""
NUM_READ = 65_536
"""Lists that are read at once."""
PLAN = "plan.npz"
Plan = Mapping[str, np.ndarray] | None
"""Arrays by name that prepare a search again; None where that is nothing."""


class ListBlock(NamedTuple):
    """The lists of some queries.

    Attributes:
        places: which of the queries.
        rows: rows of the candidates, best first.
        scores: their scores.
    """

    places: Int64[np.ndarray, "B"]
    rows: Int64[np.ndarray, "B K"]
    scores: Float32[np.ndarray, "B K"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ListSearch:
    """A search for lists that is prepared. A block depends on its number alone, not on the blocks before it.

    Args:
        num_queries: number of queries; each is in one block.
        k: length of a list.
        num_blocks: number of blocks.
        block: searches for the lists of a block, given its number from 0.
        recall: share of the exact lists that was found for a sample, in [0, 1]; None where the lists are exact.
        plan: arrays by name that were computed to prepare the search, and can prepare it again; None where that is
            nothing.
    """

    num_queries: int
    k: int
    num_blocks: int
    block: Callable[[int], ListBlock]
    recall: float | None = None
    plan: Plan = None

    def collect(
        self, on_block: Callable[[int], None] = lambda _: None
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """Search for all lists.

        Args:
            on_block: called with the number of queries done after each block.

        Returns:
            Rows of the candidates of each query, best first, and their scores.
        """
        rows, scores = (np.empty((self.num_queries, self.k), kind) for kind in (np.int64, np.float32))
        for nth in range(self.num_blocks):
            found = self.block(nth)
            rows[found.places], scores[found.places] = found.rows, found.scores
            on_block(len(found.places))
        return rows, scores


def digest_of_arrays(*arrays: Shaped[np.ndarray, "..."]) -> str:
    """Compute a digest of the types, shapes and values of arrays.

    Returns:
        Thirty-two hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class ListParts:
    """A folder with a file for each part of the lists, in the order in which they were found.

    It also has a `plan.npz`, with what was computed to prepare the search.

    Args:
        folder: the folder; if it has other lists, they are deleted.
        key: equal for the same lists.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        path = folder / "key"
        if not path.exists() or path.read_text(encoding="utf-8") != key:
            self.remove()
            folder.mkdir(parents=True)
            write_text(key, path)
        self._parts: list[np.ndarray] = []
        self._place_of = self._starts = np.empty(0, np.int64)

    def plan(self) -> dict[str, np.ndarray] | None:
        """Read the plan of the search.

        Returns:
            What `keep_plan` kept; None if there is nothing.

        Raises:
            InputError: the file is damaged.
        """
        path = self._folder / PLAN
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, BadZipFile):
            raise self._damaged(path) from None

    def keep_plan(self, plan: Plan) -> None:
        """Keep the plan of the search, for a process that continues it.

        Args:
            plan: arrays by name; None if there is nothing to keep.
        """
        path = self._folder / PLAN
        if plan is not None and not path.exists():
            write_whole(path, lambda partial: np.savez(partial, allow_pickle=False, **plan))

    def fill(self, search: ListSearch, on_block: Callable[[int], None]) -> None:
        """Search for the lists of all parts that are not there.

        Args:
            search: the search for the lists of all tracks.
            on_block: called with the number of lists done after each block.

        Raises:
            InputError: a file that was there is damaged.
        """
        form = np.dtype([("query", "<i4"), ("rows", "<i4", search.k), ("scores", "<f4", search.k)])
        for first in range(0, search.num_blocks, BLOCKS_OF_A_PART):
            path, blocks = self._folder / f"part-{first:07}.npy", range(search.num_blocks)[first:][:BLOCKS_OF_A_PART]
            if path.exists():
                on_block(len(self._opened(path)))
            else:
                write_whole(path, partial(_search, search, blocks, form, on_block))
            self._parts.append(self._opened(path))
        self._starts = np.cumsum([0, *map(len, self._parts)])
        self._place_of = np.full(search.num_queries, -1, np.int64)
        for part, start in zip(self._parts, self._starts, strict=False):
            self._place_of[part["query"]] = np.arange(start, start + len(part))
        if self._starts[-1] != search.num_queries or (self._place_of < 0).any():
            raise self._damaged(self._folder)

    def of(self, queries: Int64[np.ndarray, "n"]) -> tuple[Int64[np.ndarray, "n K"], Float32[np.ndarray, "n K"]]:
        """Read some lists.

        Args:
            queries: rows of the tracks whose lists are read.

        Returns:
            Rows of the candidates, best first, and their scores.
        """
        places = self._place_of[queries]
        of_part = np.searchsorted(self._starts, places, side="right") - 1
        k = self._parts[0]["rows"].shape[1]
        rows, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        for nth in np.unique(of_part):
            which = of_part == nth
            lines = self._parts[nth][places[which] - self._starts[nth]]
            rows[which], scores[which] = lines["rows"], lines["scores"]
        return rows, scores

    def in_order(self) -> Iterator[tuple[Int64[np.ndarray, "B K"], Float32[np.ndarray, "B K"]]]:
        """Read all lists in the order of the catalogue, some at a time.

        Yields:
            Rows of the candidates, best first, and their scores.
        """
        for start in range(0, len(self._place_of), NUM_READ):
            yield self.of(np.arange(start, min(start + NUM_READ, len(self._place_of))))

    def rows(self) -> Int64[np.ndarray, "N K"]:
        """Read the rows of all lists into memory.

        Returns:
            Rows of the candidates of each track, best first.
        """
        return np.concatenate([rows for rows, _ in self.in_order()])

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _opened(self, path: Path) -> Shaped[np.ndarray, "B"]:
        try:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError):
            raise self._damaged(path) from None

    def _damaged(self, path: Path) -> InputError:
        return InputError(
            f"{path} is damaged, as after a power failure; delete {self._folder}, and resume=<run folder> searches for "
            "the lists again"
        )


def _search(search: ListSearch, blocks: range, form: np.dtype, on_block: Callable[[int], None], path: Path) -> None:
    found = []
    for nth in blocks:
        found.append(search.block(nth))
        on_block(len(found[-1].places))
    lines = np.empty(sum(len(one.places) for one in found), form)
    for name, column in zip(("query", "rows", "scores"), zip(*found, strict=True), strict=True):
        lines[name] = np.concatenate(column)
    np.save(path, lines, allow_pickle=False)
