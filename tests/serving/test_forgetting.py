"""What is known of one listener is removed, and nothing of another one, also while workers write."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from segue.catalog import Id
from segue.errors import InputError
from segue.serving.forgetting import _forget_memory, blank_lines
from segue.serving.last_plays import make_last_plays
from segue.serving.session_memory import MappedSessions, Noted
from segue.serving.settings import SessionSettings
from tests.serving.conftest import START_MS
from tests.serving.test_last_plays import settings_of


def line(user: object, track: int = 1) -> str:
    return json.dumps({"message": "next", "user": user, "track": track, "time": 0.7}, ensure_ascii=False) + "\n"


def logs(run: Path, *texts: str) -> list[Path]:
    """Event logs of a run folder, the first one that of a worker that runs."""
    folder = run / "logs" / "worker-1"
    folder.mkdir(parents=True)
    paths = [folder / f"data.json{f'.{number}' * (number > 0)}" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


@pytest.mark.parametrize(
    ("user", "others"), [(7, [70, 17, "07", "7a"]), ("é/ü", ["é", "e\u0301/ü", 7]), ("7", [70]), ("a", ["A", 'a"'])]
)
def test_lines_of_a_listener_are_blank_and_all_others_stay(tmp_path: Path, user: Id, others: list[object]) -> None:
    kept = "".join(line(other, 7) for other in others)
    before = f'{line(user)}no JSON 7\n{kept}{{"message": "7"}}\n\n{line(user)}'
    newest, older = logs(tmp_path, before, line(7 if user == "7" else user))
    assert sorted(blank_lines([tmp_path], user)) == [1, 2]
    assert newest.read_text().strip("\n") == before.removeprefix(line(user)).removesuffix(line(user)).strip("\n")
    assert older.read_text().strip() == ""
    assert newest.stat().st_size == len(before.encode()), "a service that appends does not notice"
    assert list(blank_lines([tmp_path], user)) == [0, 0]


def test_a_file_that_is_rotated_meanwhile_is_not_missed(tmp_path: Path) -> None:
    newest, older = logs(tmp_path, line(7), line(7) + line(8))
    found = blank_lines([tmp_path], 7)
    assert next(iter(found)) == 1
    older.rename(older.with_name("data.json.2"))
    newest.rename(older)
    newest.write_text(line(9))
    assert sorted(found) == [0, 1]
    texts = [path.read_text().strip() for path in newest.parent.iterdir()]
    assert sorted(texts) == ["", line(8).strip(), line(9).strip()]


def test_a_log_that_is_appended_to_meanwhile_loses_nothing(tmp_path: Path) -> None:
    (newest,) = logs(tmp_path, line(7))
    descriptor = os.open(newest, os.O_WRONLY | os.O_APPEND)
    for number in range(50):
        os.write(descriptor, line(8, number).encode())
        list(blank_lines([tmp_path], 7))
    os.close(descriptor)
    assert newest.read_text().lstrip() == "".join(line(8, number) for number in range(50))


async def test_the_command_leaves_the_files_of_a_service_as_large_as_they_are(tmp_path: Path) -> None:
    """A file that is replaced under a service that has mapped it would end the workers, and forget all others."""
    of_service = replace(settings_of(tmp_path), sessions=SessionSettings(capacity=16, max_tracks=3))
    (tmp_path / "store").mkdir()
    last_plays = make_last_plays(of_service)
    sessions = MappedSessions(tmp_path / "sessions.bin", of_service.sessions)
    paths = [tmp_path / "sessions.bin", tmp_path / "store/last_plays/sessions.bin", tmp_path / "other.bin"]
    paths[2].write_bytes(b"of another program")

    sizes = [path.stat().st_size for path in paths]
    for memory in (last_plays, sessions):
        for user in (7, 8):
            await memory.play(user, 1, 1.0, START_MS)
            await memory.note(user, Noted(1, 1.0, False, "a"))
    assert not await _forget_memory(7, settings_of(tmp_path), paths)
    for memory in (last_plays, sessions):
        assert await memory.look(7, START_MS) is None
        assert await memory.look(8, START_MS) is not None
    assert [path.stat().st_size for path in paths] == sizes


def test_sessions_of_another_version_are_named(tmp_path: Path) -> None:
    (path := tmp_path / "sessions.bin").write_bytes(b"segue sessions 1, 8 buckets of 8, 3 tracks\n")
    with pytest.raises(
        InputError, match=r"sessions\.bin is damaged or of another version; stop its service and remove"
    ):
        MappedSessions.as_it_is(path)
    assert path.stat().st_size < 99, "and nothing is replaced"
