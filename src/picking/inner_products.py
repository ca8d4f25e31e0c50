"""Inner products of given pairs of vectors, by faiss.

faiss reads the vectors of scattered rows where they are. numpy copies them first, which makes a step of the simulator
1.4 to 1.6 times as long (docs/dependencies.md); it is the plain form, on systems without faiss, and its test.

S sessions, C candidates, N tracks in the catalogue, V width of a vector.
"""

import sys
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

_BLOCK = 32
"""Sessions whose candidates numpy scores together: their vectors stay in the cache."""


@cache
def import_faiss() -> Any | None:
    """faiss; None on other systems than Linux.

    On macOS a process that has the OpenMP of faiss and that of torch is known to crash.
    """
    if sys.platform != "linux":
        return None
    import faiss

    return faiss


def inner_products(
    items: Float32[np.ndarray, "N V"], queries: Float32[np.ndarray, "S V"], candidates: Int[np.ndarray, "S C"]
) -> Float32[np.ndarray, "S C"]:
    """Compute the scores of given candidates. A score depends on its query and its item alone, to the last digit.

    Args:
        items: item vector of each track, in C order.
        queries: the query of each session.
        candidates: rows; negative ones get any number.

    Returns:
        The inner products.
    """
    found = np.empty(candidates.shape, np.float32)
    if (faiss := import_faiss()) is not None:
        rows = np.minimum(candidates, len(items) - 1, dtype=np.int64, order="C")  # faiss does not check them
        arrays = found, np.ascontiguousarray(queries), items, rows
        pointers, num_threads = [faiss.swig_ptr(array) for array in arrays], faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # too few candidates for several; torch may have the same setting
        try:
            faiss.fvec_inner_products_by_idx(*pointers, queries.shape[1], *candidates.shape)
        finally:
            faiss.omp_set_num_threads(num_threads)
        return found
    for first in range(0, len(queries), _BLOCK):
        some = slice(first, first + _BLOCK)
        np.vecdot(items.take(candidates[some], axis=0, mode="clip"), queries[some, None], out=found[some])
    return found
