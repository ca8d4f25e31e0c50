"""An app with text ids uses Segue from its export to the next release, with its own ids alone: docs/your_ids.md."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.app_export import plays
from tests.e2e.running import wait_until
from tests.e2e.test_readme import NUM_PLAYS, commands, services, walk  # noqa: F401 - a fixture


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_file_answer_and_log_line_of_the_page_has_the_ids_of_the_app(
    tmp_path: Path,
    services: ExitStack,  # noqa: F811
) -> None:
    service = walk(commands("docs/your_ids.md"), tmp_path, services)
    export, outputs = plays(NUM_PLAYS), tmp_path / "outputs"
    first = export.drop_duplicates("track_uri")
    names = zip(first["track_name"], first["artist_name"], strict=True)
    songs = dict(zip(first["track_uri"], names, strict=True))

    for run in ("monday", "tuesday"):
        lines = records(outputs / run / "recommendations.jsonl")
        assert {line["track"]: (line["title"], line["artist"]) for line in lines} == songs
        assert {track for line in lines for track in line["recommendations"]} <= songs.keys()
        assert set(json.loads((outputs / run / "top_tracks.json").read_text())) <= songs.keys()

    lines = service.lines()
    assert {line["track"] for line in lines} <= songs.keys()
    assert {line["recommendation"] for line in lines} <= {*songs, None}
    users = set(export["user_id"])
    assert any(line["user"] in users for line in lines)  # who asked by curl; the others are simulated
    verdict = next(outputs.glob("abtest/*/abtest.json"))
    assert json.loads(verdict.read_text())["experiment"] == "IDS"

    wait_until(lambda: service.ask("GET", "/experiments").body["experiment"] == "IDS", "the release of before")
    for track in list(songs)[::100]:
        record = service.ask("GET", f"/track/{quote(track, safe='')}").body
        assert (record["track"], record["title"], record["artist"]) == (track, *songs[track])
        assert set(record["recommendations"]) <= songs.keys()
