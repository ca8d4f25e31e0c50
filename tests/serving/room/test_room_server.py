"""The room server: its answers, and its process."""

import asyncio
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed; run make setup")

from segue.serving.log_writer import now_ms
from segue.serving.profile_memory import MappedProfiles
from segue.serving.release import Release
from segue.serving.release_store import FolderStore
from segue.serving.room.room_server import RoomServer, main
from segue.serving.settings import ProfileSettings
from tests.conftest import make_vectors, write_lines
from tests.e2e.running import PATIENCE_S
from tests.serving.conftest import TEXTS, arm, lists_of, make_release, text_catalog
from tests.serving.room.conftest import ARTIST_OF, PLAYS, locate
from tests.serving.room.test_proxy import SPOILS


def run_folder(release: Release, folder: Path, *, remember: str = "all", **room: Any) -> Path:
    """A run folder of a service whose release is the one of the fixture."""
    store = FolderStore(folder / "store", keep=2)
    store.load(lambda target: shutil.copytree(release.folder, target, dirs_exist_ok=True))
    settings: dict[str, Any] = {
        "store": {"folder": str(folder / "store"), "keep": 2, "kind": "embedded"},
        "room": {"enabled": True, "recommenders": [], "mlflow": None, "audio": None, "audio_from": []} | room,
        "log": {"with_fallback": False},
        "profiles": {"capacity": 64, "remember": remember},
    }
    (folder / "serve.json").write_text(json.dumps(settings))
    return folder


async def ask(server: RoomServer, path: str, *, body: Any = None, **query: str) -> tuple[int, Any]:
    question = {"path": path, "query": query, "body": body}
    status, kind, answer = await server.answer(question)
    return status, json.loads(answer) if kind == "application/json" else answer


async def test_previews_that_cannot_be_used_are_named_and_do_not_close_the_room(
    release: Release, tmp_path: Path
) -> None:
    (tmp_path / "tracks.json").write_text('{"track": 101, "audio": "https://other.example/1.mp3"}')
    given: dict[str, Any] = {"audio": str(tmp_path / "tracks.json"), "audio_from": ["https://a.example"]}
    folder = run_folder(release, tmp_path, **given)

    status, state = await ask(RoomServer(folder, locate), "state")
    assert status == 200
    (problem,) = state["problems"]
    assert "none of 1 previews is in room.audio_from=['https://a.example']" in problem


@pytest.mark.timing
def test_the_desk_answers_every_question(release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server = RoomServer(run_folder(release, tmp_path), locate)

    async def here(work: Any, *given: Any) -> Any:
        return work(*given)

    monkeypatch.setattr(server, "_apart", here)

    async def work() -> None:
        status, state = await ask(server, "state")
        assert (status, state["tracks"], [one["key"] for one in state["players"]]) == (200, 10, ["C", "T1", "T2", "T3"])
        assert (state["examples"][0]["track"], state["problems"]) == (101, [])
        async with asyncio.timeout(PATIENCE_S):
            while (found := (await ask(server, "search", q="title 7"))[1])["is_building"]:
                await asyncio.sleep(0.01)
        assert found["found"][0]["track"] == 107
        assert (await ask(server, "search", q="104"))[1]["found"][0]["track"] == 104
        status, compared = await ask(server, "compare", track="100", players="C,T3", alpha="C:1", num="3")
        assert (status, [len(one["items"]) for one in compared["columns"]]) == (200, [3, 0])
        status, _ = await ask(server, "compare", track="9", players="C")
        assert status == 404
        for wrong in ({"players": "X"}, {"players": "C,C,C,C,C"}, {"num": "0"}, {"alpha": "C:2"}):
            assert (await ask(server, "compare", **{"track": "100", **wrong}))[0] == 400
        status, step = await ask(server, "step", body={"arm": "C", "tracks": [100], "shares": [1]})
        assert status == 200
        given = {"arm": "C", "tracks": [100], "shares": [1], "track": step["track"]}
        assert (await ask(server, "why", body=given))[1]["sentence"] == step["sentence"]
        assert (await ask(server, "step", body={"arm": "X", "tracks": [100], "shares": [1]}))[0] == 400
        for other, reason in (({"familiar": 2}, "familiar: Input should be"), ({"user": ""}, "listener")):
            status, answer = await ask(server, "step", body={"arm": "T1", "tracks": [100], "shares": [1], **other})
            assert (status, answer["reason"].startswith(reason)) == (400, True)
        assert (await ask(server, "step", body={**given, "familiar": 0.5}))[1]["reason"].startswith(
            "familiar=0.5 needs context=listener"
        )
        for same in (1, "learned"):
            assert (await ask(server, "step", body={**given, "user": "7", "familiar": same}))[0] == 200
        assert (await ask(server, "listener", arm="T1"))[0] == 200
        assert (await ask(server, "row", track="103"))[1] == {"row": 3}
        points = np.frombuffer((await ask(server, "map"))[1], "<f4").reshape(-1, 10)
        assert points.shape == (7, 10)  # place, artist, popularity, plays, and two arms with lists
        assert points[4].tolist() == pytest.approx(np.log1p(PLAYS) / np.log1p(50))
        assert points[2].tolist() == ARTIST_OF
        assert points[3].argmax() == 1
        assert (await ask(server, "tracks", body=[3, 1, 99]))[1]["found"][0]["track"] == 101
        assert (await ask(server, "experiment"))[1]["state"] == "quiet"
        assert (await ask(server, "runs"))[1]["comparison"] is None
        assert (await ask(server, "picture"))[0] == 404
        assert (await ask(server, "audio", track="101"))[0] == 404
        assert (await ask(server, "nothing"))[0] == 404

    asyncio.run(work())


@pytest.mark.parametrize("remember", ["all", "none"])
async def test_a_walk_knows_no_past_where_the_service_keeps_none(
    release: Release, tmp_path: Path, remember: str
) -> None:
    folder = run_folder(release, tmp_path, remember=remember)
    profiles = MappedProfiles(folder / "store", ProfileSettings(capacity=64))

    for track in range(100, 110):
        await profiles.play(7, track, 1.0, now_ms())
    body = {"arm": "C", "tracks": [100], "shares": [1], "user": "7"}
    assert (await ask(RoomServer(folder, locate), "step", body=body))[1]["is_known"] == (remember == "all")


async def test_the_room_names_tracks_by_ids_that_are_texts(tmp_path: Path) -> None:
    num = len(TEXTS)
    release = make_release(
        tmp_path / "release",
        catalog=text_catalog(),
        arms={"C": arm(pick="ranked"), "T1": arm(pick="ranked", context="session", num_lists=2)},
        lists=dict.fromkeys(("C", "T1"), lists_of([(row + 1) % num, (row + 2) % num] for row in range(num))),
        vectors={"T1": make_vectors(num)},
    )
    (tmp_path / "a.mp3").write_bytes(b"sound")
    write_lines(tmp_path / "tracks.json", ({"track": track, "audio": "a.mp3"} for track in TEXTS[1:]))
    audio: dict[str, Any] = {"audio": str(tmp_path / "tracks.json"), "audio_from": [str(tmp_path)]}
    server = RoomServer(run_folder(release, tmp_path, **audio), locate)

    while (await ask(server, "search", q="title"))[1]["is_building"]:
        await asyncio.sleep(0.01)
    for row, track in enumerate(TEXTS):
        following = [TEXTS[(row + step) % num] for step in (1, 2)]
        for typed in (track, f" {track} "[:256]):
            assert (await ask(server, "search", q=typed))[1]["found"][0]["track"] == track
        _, compared = await ask(server, "compare", track=track, players="C")
        assert compared["track"]["track"] == track
        assert [one["track"] for one in compared["columns"][0]["items"]] == following
        for arm_ in ("C", "T1"):
            given = {"arm": arm_, "tracks": [track], "shares": [1]}
            status, step = await ask(server, "step", body=given)
            assert (status, step["track"] in following) == (200, True)
            assert [one["track"] for one in step["session"]] == ([track] if arm_ == "T1" else [])
            assert (await ask(server, "why", body={**given, "track": step["track"]}))[1]["title"] == step["title"]
        none = {"reason": 'track "1" has no preview on this machine'}
        assert await ask(server, "audio", track=track) == ((200, b"sound") if row else (404, none))
    for track in ("B", "", "x" * 257):
        assert (await ask(server, "compare", track=track, players="C"))[0] == 404


@pytest.mark.parametrize("spoil", SPOILS)
def test_the_desk_does_not_listen_where_others_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spoil: Any
) -> None:
    folder = tmp_path / "segue-room"
    folder.mkdir(0o700)
    spoil(folder, monkeypatch)
    with pytest.raises(SystemExit):
        main(tmp_path, folder / "socket", 1)
    (line,) = caplog.messages
    assert line.startswith(f"{folder} is not a folder of this user alone (mode 700), therefore the room stays closed")


WRONG: list[Any] = [
    None, True, False, 0, 1, -1, 1.0, 0.5, -0.5, 100.0, 2**63, -(2**70), 10**300, 1e308, math.nan, math.inf, -math.inf,
    "", "C", "0100", "\ud800", "\0", "9" * 5000, [], ["C"], [100], [None], [[100]], [100.0], [True], [math.nan],
    [10**30], {}, {"C": 1}, {"arm": "C"},
]  # fmt: skip
"""JSON values that a question may have where another type is meant."""
WRONG_TEXTS = ["", "C", "-1", "1.5", "nan", "9" * 5000, "٣", "\0", '"', "100" * 9, "C:nan", "C:" + "9" * 400, ":"]
RIGHT = {"arm": "C", "tracks": [100], "shares": [1], "track": 101, "run": "abc"}
NEEDED = {"step": ["arm", "tracks", "shares"], "why": ["arm", "tracks", "shares", "track"]}


def is_right(name: str, body: Any) -> bool:
    """Whether a question with this body has an answer; rows that the map does not have are left out."""
    if name == "tracks":
        return isinstance(body, list) and all(type(row) is int for row in body)
    keys = NEEDED.get(name, [])
    return bool(keys) and isinstance(body, dict) and all(repr(body.get(key)) == repr(RIGHT[key]) for key in keys)


@pytest.mark.parametrize("name", ["tracks", "step", "why"])
async def test_a_body_with_wrong_values_is_refused(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    server = RoomServer(run_folder(release, tmp_path), locate)

    for body in WRONG + [RIGHT | {key: value} for key in RIGHT for value in WRONG]:
        status, _, answer = await server.answer({"path": name, "query": {}, "body": body})
        assert status == 200 if is_right(name, body) else status in (400, 404), body
        assert status == 200 or json.loads(answer).keys() == {"reason"}
    assert caplog.messages == []


async def test_a_query_with_wrong_values_is_refused(
    release: Release, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RoomServer(run_folder(release, tmp_path), locate)

    while (await ask(server, "search", q="title"))[1]["is_building"]:
        await asyncio.sleep(0.01)
    for name in ("compare", "row", "listener", "search", "audio"):
        for key in ("track", "players", "num", "alpha", "arm", "q"):
            for text in WRONG_TEXTS:
                given = {"track": "100", "players": "C", "arm": "C"} | {key: text}
                assert (await ask(server, name, **given))[0] in (200, 400, 404), given
    assert caplog.messages == []
