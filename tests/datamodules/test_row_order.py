"""Without a clock the order of the rows is the order of the plays: threads must not change it."""

from pathlib import Path

import numpy as np

from tests.datamodules.reading import opened

NUM_ROWS = 500_000


def test_the_rows_of_a_large_file_keep_their_order(tmp_path: Path) -> None:
    rows = (f"{row // 50},{row},{'true' if row % 3 else 'no'}" for row in range(NUM_ROWS))
    (tmp_path / "plays.csv").write_text("user,track,skipped\n" + "\n".join(rows) + "\n")
    columns = {"user": "user", "session": "user", "track": "track", "skipped": "skipped"}
    with opened("table", tmp_path / "plays.csv", changes={"columns": columns}) as events:
        found = events.database.execute("SELECT track FROM events ORDER BY position").fetchnumpy()["track"]
        ids = events.catalog.track_ids[np.asarray(found, np.int64)]
    assert np.array_equal(ids, np.arange(NUM_ROWS))
