"""What a worker does for the room: the files of the page, the token, and questions to the room server."""

import asyncio
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from segue.serving.release import Release
from segue.serving.room.proxy import RoomProxy, socket_of
from tests.conftest import ROOT
from tests.e2e.running import PATIENCE_S
from tests.serving.test_app import Running, drive, running

STATIC = ROOT / "src/serving/room/static"


def proxy(folder: Path, **changes: Any) -> RoomProxy:
    made = RoomProxy(folder / "socket", folder, **changes)
    made._spawn = lambda: None  # type: ignore[method-assign] # no process in these tests
    return made


async def fake_desk(folder: Path, asked: list[Any]) -> asyncio.Server:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(json.loads(await reader.readline()))
        writer.write(b'{"status": 200, "type": "application/json"}\n{"ok": true}')
        writer.close()

    return await asyncio.start_unix_server(talk, str(folder / "socket"))


async def test_the_page_and_its_files_are_sent_with_a_strict_policy(release: Release, tmp_path: Path) -> None:
    async with running(release, tmp_path, room=proxy(tmp_path)) as service:
        for path in ("/room", "/room/", "/room/app.js", "/room/vendor/preact.mjs", "/room/room.css"):
            answer = await service.ask("GET", path)
            assert answer.status == 200
            policy = dict(one.strip().split(" ", 1) for one in answer.headers["content-security-policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert "unsafe" not in answer.headers["content-security-policy"]
            again = await service.ask("GET", path, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status, again.body) == (304, b"")
        assert (await service.ask("HEAD", "/room")).status == 200
        assert (await service.ask("POST", "/room")).status == 405
        assert (await service.ask("GET", "/room/nothing")).status == 404
        assert (await service.ask("GET", "/rooms")).status == 404


async def test_previews_come_from_the_hosts_that_are_allowed_and_nothing_else_does(
    release: Release, tmp_path: Path
) -> None:
    async with running(release, tmp_path, room=proxy(tmp_path, hosts=["https://a.example"])) as service:
        policy = (await service.ask("GET", "/room")).headers["content-security-policy"]
        assert [one for one in policy.split(";") if "example" in one] == [" media-src 'self' blob: https://a.example"]


async def test_with_a_token_the_files_are_open_and_every_question_needs_it(release: Release, tmp_path: Path) -> None:
    asked: list[Any] = []

    of_service = running(release, tmp_path, room=proxy(tmp_path), token="secret")
    async with of_service as service, await fake_desk(tmp_path, asked):
        assert (await service.ask("GET", "/room")).status == 200
        assert (await service.ask("GET", "/room/app.js")).status == 200
        for path in ("/room/api/state", "/room/nothing", "/room/api/../app.js"):
            assert (await service.ask("GET", path)).status == 401
        given = {"authorization": "Bearer secret"}
        answer = await service.ask("GET", "/room/api/state", headers=given)
        assert (answer.status, answer.json()) == (200, {"ok": True})
        await service.ask("POST", "/room/api/step", b'{"a": [1]}', headers=given)
    assert asked[0] == {"path": "state", "query": {}, "body": None}
    assert asked[1]["body"] == {"a": [1]}


async def test_questions_that_cannot_be_asked_are_refused(release: Release, tmp_path: Path) -> None:
    async with running(release, tmp_path, room=proxy(tmp_path)) as service:
        assert (await service.ask("POST", "/room/api/step", b"{")).status == 400
        assert (await service.ask("POST", "/room/api/step", b"[" * 3000)).status == 400

        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_unix_server(hang_up, str(tmp_path / "socket")):
            answer = await service.ask("GET", "/room/api/state")
        assert (answer.status, "try again" in answer.json()["reason"]) == (503, True)
        assert (await service.ask("POST", "/next/1", b'{"track": 100, "time": 1}')).status == 200


def test_vendored_files_are_those_that_were_fetched() -> None:
    folder, files = STATIC / "vendor", {"vendor.json"}
    for name, about in json.loads((folder / "vendor.json").read_text()).items():
        assert about["license"] in ("MIT", "Apache-2.0")
        assert (folder / f"{name}.LICENSE").stat().st_size > 500
        for file, digest in about["sha256"].items():
            assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
        files |= {f"{name}.LICENSE", *about["sha256"]}
    assert {path.name for path in folder.iterdir()} == files


def test_the_page_names_no_other_host_and_every_file_that_it_imports_exists() -> None:
    for path in STATIC.rglob("*"):
        if not path.is_file() or path.suffix in (".LICENSE", ".json"):
            continue
        text = path.read_text(encoding="utf-8")
        if path.parent == STATIC:
            hosts = set(re.findall(r"https?://[\w.:]+", text)) - {"http://www.w3.org", "http://127.0.0.1:5000"}
            assert not hosts, path
            assert not re.search(r"\beval\(|new Function|innerHTML|\son\w+=\"", text), path
        for name in re.findall(r'(?:from|import\()\s*"(/room/[^"]+)"', text):
            assert (STATIC / name.removeprefix("/room/")).is_file(), name


@pytest.mark.timing
@pytest.mark.parametrize("path", ["/room/api/step", "/room/nothing"])
def test_every_body_has_the_limits_of_next(release: Release, tmp_path: Path, path: str) -> None:
    async def unfinished(service: Running) -> None:
        async with asyncio.timeout(PATIENCE_S):
            answer = await service.ask("POST", path, [b"{"], stalls=True)
        assert (answer.status, answer.json()) == (408, {"reason": "the body took longer than 0.05 s"})
        assert answer.headers["connection"] == "close"

    async def large(service: Running) -> None:
        answer = await service.ask("POST", path, [b" " * 60, b" " * 60], stalls=True)
        assert (answer.status, answer.json()) == (413, {"reason": "a body must not be larger than 100 bytes"})

    drive(release, tmp_path, unfinished, room=proxy(tmp_path), body_timeout_s=0.05)
    drive(release, tmp_path, large, room=proxy(tmp_path), max_body_bytes=100)


def foreign_owner(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)


def open_to_others(folder: Path, _: pytest.MonkeyPatch) -> None:
    folder.chmod(0o711)


def a_link(folder: Path, _: pytest.MonkeyPatch) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


SPOILS = [foreign_owner, open_to_others, a_link]
"""What makes a folder one in which others may listen."""


@pytest.mark.parametrize("spoil", SPOILS)
async def test_a_socket_where_others_may_listen_is_not_spoken_to(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any
) -> None:
    """Anybody can make a folder of that name in the folder for temporary files, and listen in it."""
    folder = tmp_path / "segue-room"
    folder.mkdir(0o700)
    asked: list[Any] = []

    async with running(release, tmp_path, room=proxy(folder)) as service, await fake_desk(folder, asked):
        assert (await service.ask("GET", "/room/api/state")).status == 200
        spoil(folder, monkeypatch)
        answer = await service.ask("GET", "/room/api/state")
        assert answer.status == 503
        assert re.fullmatch(
            r"\S+/segue-room is not a folder of this user alone .*=<another folder>", answer.json()["reason"]
        )
    assert len(asked) == 1


def test_the_path_of_a_socket_is_short_for_every_run_folder() -> None:
    assert len(str(socket_of(Path("/", "long" * 100)))) < 107


@pytest.mark.parametrize("token", [None, "secret"])
async def test_a_page_of_another_site_asks_nothing(release: Release, tmp_path: Path, token: str | None) -> None:
    asked: list[Any] = []

    async with running(release, tmp_path, room=proxy(tmp_path), token=token) as service:
        given = {"authorization": "Bearer secret", "host": "127.0.0.1:5001"}
        async with await fake_desk(tmp_path, asked):
            for origin, status in (("http://127.0.0.1:5001", 200), ("https://other.example", 403)):
                answer = await service.ask("POST", "/room/api/step", b"{}", headers=given | {"origin": origin})
                assert answer.status == status
    assert len(asked) == 1
