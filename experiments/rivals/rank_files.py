"""What the tables need of the test queries, in Parquet files of the repository: `ranks/`.

Every final run has a file with the rank of each test query; several processes therefore never write the same file.
Every data set has one with what the tables ask about its queries.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from segue.atomic import write_whole

RANKS = Path(__file__).with_name("ranks")


def ranks_path(folder: Path, data: str, model: str, seed: str) -> Path:
    """The file of a final run.

    Args:
        folder: usually RANKS.
        data: name of the data.
        model: name of the model.
        seed: of the run.
    """
    return folder / data / f"{model.replace(', ', '-').replace(' ', '-')}_{seed}.parquet"


def queries_path(folder: Path, data: str) -> Path:
    """The file of the test queries of a data set."""
    return folder / data / "queries.parquet"


def write_ranks(path: Path, ranks: np.ndarray) -> None:
    """Write the ranks of a run. Ties share the mean of their ranks, therefore twice the rank is a whole number."""
    twice = (2 * ranks).astype(np.int32)
    assert np.array_equal(twice, 2 * ranks)
    _write(path, pd.DataFrame({"twice_the_rank": twice}))


def read_ranks(path: Path) -> np.ndarray:
    """The rank of each test query, at least 1."""
    return pd.read_parquet(path)["twice_the_rank"].to_numpy() / 2


def write_queries(path: Path, queries: pd.DataFrame) -> None:
    """Write the columns of `fitting.queries_table`."""
    _write(path, queries.astype(np.int32))


def read_queries(path: Path) -> pd.DataFrame:
    """What `write_queries` wrote."""
    return pd.read_parquet(path).astype(np.int64)


def _write(path: Path, frame: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)

    def save(partial: Path) -> None:
        frame.to_parquet(
            partial,
            compression="zstd",
            index=False,
            compression_level=19,
            use_dictionary=False,
            use_byte_stream_split=True,  # the first bytes of most numbers are 0
        )

    write_whole(path, save)
