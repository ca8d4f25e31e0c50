"""The real sets give the pairs that the readers of earlier versions gave, by their own settings and as a table.

The digests are those of commit 2d2dfb0, where each source had a reader of its own.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import build_datamodule

TRACKS = {"format": "jsonl", "columns": {"track": "track", "title": "title", "artist": "artist", "duration": None}}
SETS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "botify": (
        "botify-2023",
        "303aee240badd74f",
        "first",
        {
            "files": {"pattern": "logs/**/data.json*", "format": "jsonl"},
            "columns": {"played_ratio": "time", "timestamp": "timestamp", "last": "is_last"},
            "catalogue": {"file": "tracks.json", **TRACKS},
            "sql": {"columns": {"is_last": "message = 'last'"}},
        },
    ),
    "situnes": (
        "situnes",
        "6cc9c4a57902a7ac",
        "consecutive",
        {
            "files": {"pattern": "stage1.csv"},
            "columns": {"played": "duration", "duration": None},
            "catalogue": {
                "file": "tracks.csv",
                "columns": {"track": "item_id", "title": "title", "artist": "artist", "duration": "duration_ms"},
            },
        },
    ),
    "polimi": (
        "polimi-2018",
        "753a832589584850",
        "consecutive",
        {
            "files": {"pattern": "train_sequential.csv"},
            "catalogue": {"file": "tracks.csv", "columns": {"track": "track_id", "artist": "artist_id"}},
        },
    ),
    "yes": (
        "yes-small",
        "ffda2167543a52ed",
        "consecutive",
        {
            "files": {"pattern": "train.txt", "format": "lines", "skip": 2},
            "columns": {"track": "song", "session": "row"},
            "sql": {"each": "string_split_regex(trim(line), '\\s+')", "columns": {"song": "item"}},
            "catalogue": {
                "file": "song_hash.txt",
                "delimiter": "\t",
                "quote": "",
                "names": ["id", "title", "artist"],
                "columns": {"track": "id", "title": "title", "artist": "artist"},
            },
        },
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_a_real_set_gives_the_pairs_that_its_reader_gave(name: str, real_data: Path, tmp_path: Path) -> None:
    folder, digest, pairing, changes = SETS[name]
    split: dict[str, Any] = {"pairing": pairing, "split": "auto"}
    for source, given in ((name, {}), ("table", changes)):
        datamodule = build_datamodule(real_data / folder, tmp_path, source=source, **split, **given)
        datamodule.setup()
        assert datamodule.digest() == digest, source
