"""The vectors of a run as rows of a table, for vector databases.

N tracks in the catalogue, V width of a vector.
"""

from pathlib import Path

import numpy as np

from segue.atomic import write_whole
from segue.catalog import Catalog
from segue.runs.session_vectors import SessionVectors

TABLE = "vectors.parquet"


def write_vector_rows(vectors: SessionVectors, catalog: Catalog, folder: Path) -> None:
    """Write `vectors.parquet`: a row for each track, in the order of the catalogue.

    Its columns are `id`, `title`, `artist`, `vector` (V numbers of 32 bits), which is searched, and `query`, with which
    it is searched after this track. A score is the inner product of a `query` and a `vector`, and the bias of an item
    is in it: the last number of each `vector`, beside a 1 in each `query`. A database must therefore rank by the inner
    product, and not by the cosine or the distance. The folder is created if missing.
    """
    import pyarrow as pa
    from pyarrow import parquet

    def texts(names: np.ndarray) -> pa.Array:
        return pa.array([name or None for name in names.tolist()], pa.string())

    def lists(numbers: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), numbers.shape[1])

    columns = {
        "id": pa.array(catalog.track_ids.tolist(), pa.string() if catalog.has_texts else pa.int64()),
        "title": texts(catalog.titles),
        "artist": texts(catalog.artists[catalog.artist_of]),
        "vector": lists(vectors.items),
        "query": lists(vectors.queries),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / TABLE, lambda partial: parquet.write_table(pa.table(columns), partial))
