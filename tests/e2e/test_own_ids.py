"""An app with text ids uses Segue from its export to the next release, with its own ids alone.

The walk is that of docs/your_ids.md: describe, train, serve, listen, A/B test, train again with the rows in another
order, load, roll back.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest

from tests.app_export import plays
from tests.e2e.running import Answer, Running, run_verb, serve, serving, wait_until
from tests.e2e.test_train import train

SMALL = ("trainer.max_epochs=1", "callbacks.export.k=10", "callbacks.plots=null", "callbacks.lineage.model=false")
TRAIN = ("datamodule=table", *SMALL)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A folder with the export of an app, and a run of it in `first`."""
    cwd, export = tmp_path_factory.mktemp("app"), plays()
    export.to_csv(cwd / "plays.csv", index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ")
    train(cwd, *TRAIN, "datamodule.path=plays.csv", "hydra.run.dir=first")
    return cwd, export


@pytest.fixture(scope="module")
def service(app: tuple[Path, pd.DataFrame]) -> Iterator[Running]:
    cwd, _ = app
    arms = "arms={C: popular, T1: first}"
    with serving(cwd, arms, "experiment=IDS", "store.poll_s=0.2", run="service") as running:
        yield running


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def say(running: Running, call: str, user: str, track: str, time: float) -> Answer:
    return running.ask("POST", f"/{call}/{quote(user, safe='')}", {"track": track, "time": time})


def songs_of(export: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Title and artist of each id."""
    first = export.drop_duplicates("track_uri")
    return dict(zip(first["track_uri"], zip(first["track_name"], first["artist_name"], strict=True), strict=True))


def test_describe_shows_the_columns_of_the_app(app: tuple[Path, pd.DataFrame]) -> None:
    cwd, export = app
    run_verb("describe.py", cwd, "datamodule=table", "datamodule.path=plays.csv", "hydra.run.dir=described")
    found = json.loads((cwd / "described" / "describe.json").read_text(encoding="utf-8"))
    assert "track_uri" in json.dumps(found)
    assert json.dumps(len(export)) in json.dumps(found)


def test_every_file_of_a_run_has_the_ids_of_the_app(app: tuple[Path, pd.DataFrame]) -> None:
    cwd, export = app
    songs = songs_of(export)
    lines = records(cwd / "first" / "recommendations.jsonl")
    assert {line["track"]: (line["title"], line["artist"]) for line in lines} == songs
    assert {track for line in lines for track in line["recommendations"]} <= songs.keys()
    assert "id" not in lines[0]
    top = json.loads((cwd / "first" / "top_tracks.json").read_text())
    assert top[0] in songs
    assert len(top) == len(set(top))


def test_a_service_answers_and_logs_ids_and_an_ab_test_reads_them(
    app: tuple[Path, pd.DataFrame], service: Running
) -> None:
    cwd, export = app
    songs = songs_of(export)
    users, tracks = export["user_id"].unique()[:300].tolist(), list(songs)
    for number, user in enumerate(users):
        track = tracks[number]
        for _ in range(2 + number % 3):
            answer = say(service, "next", user, track, 1.0)
            assert answer.status == 200
            assert answer.body["user"] == user
            track = answer.body["track"]
            assert track in songs
        assert say(service, "last", user, track, 0.5).body == {"user": user}
    record = service.ask("GET", f"/track/{quote(tracks[0], safe='')}").body
    assert (record["track"], (record["title"], record["artist"])) == (tracks[0], songs[tracks[0]])
    lines = service.lines()
    assert {line["user"] for line in lines} == set(users)
    assert {line["track"] for line in lines} <= songs.keys()
    run_verb("abtest.py", cwd, "logs=service/logs", "hydra.run.dir=verdict")
    verdict = json.loads((cwd / "verdict" / "abtest.json").read_text())
    assert str(len(users)) in json.dumps(verdict)


def test_a_model_learns_from_the_log_of_the_service(app: tuple[Path, pd.DataFrame], service: Running) -> None:
    cwd, export = app
    assert service.lines()
    train(cwd, "datamodule=botify", *SMALL, "datamodule.path=service", "hydra.run.dir=from_log")
    lines = records(cwd / "from_log" / "recommendations.jsonl")
    songs = songs_of(export)
    assert {line["track"]: (line["title"], line["artist"]) for line in lines} == songs


def test_a_run_of_the_same_rows_in_another_order_is_loaded_and_every_id_means_the_same_track(
    app: tuple[Path, pd.DataFrame], service: Running
) -> None:
    cwd, export = app
    songs = songs_of(export)
    shuffled = export.sample(frac=1, random_state=1)
    shuffled.to_csv(cwd / "shuffled.csv", index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ")
    train(cwd, *TRAIN, "datamodule.path=shuffled.csv", "hydra.run.dir=second")
    user, track = export["user_id"].iloc[0], export["track_uri"].iloc[0]
    before = service.version()
    assert say(service, "next", user, track, 1.0).status == 200
    done = serve(cwd, "load", "store.folder=service/store", "arms={C: popular, T1: second}", "experiment=IDS")
    assert "changed" not in done.stderr
    wait_until(lambda: service.version() != before, "the new version")
    for one in list(songs)[::200]:
        record = service.ask("GET", f"/track/{quote(one, safe='')}").body
        assert (record["title"], record["artist"]) == songs[one]
    assert say(service, "next", user, track, 1.0).body["track"] in songs
    serve(cwd, "rollback", "store.folder=service/store")
    service.wait_for_version(before)
    assert say(service, "last", user, track, 1.0).body == {"user": user}
