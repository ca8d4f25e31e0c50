"""Ids of users and tracks in a log: whole numbers and texts."""

import json
from pathlib import Path
from typing import Any

import pytest

from segue.assignment import GUESTS
from segue.catalog import Id, key_of
from segue.errors import InputError
from segue.verdicts.abtest.log import read_users
from segue.verdicts.abtest.users import Users
from tests.conftest import event, write_lines
from tests.odd_ids import ODD_IDS
from tests.verdicts.abtest.test_log import READING


def session(user: Id, start: int = 0, arm: str = "C", tracks: tuple[Id, ...] = (100, 101)) -> list[dict[str, Any]]:
    lines = []
    for step, track in enumerate(tracks):
        is_last = step == len(tracks) - 1
        line = event(0, start + step, 0, 0.5, "last" if is_last else "next")
        following = None if is_last else tracks[step + 1]
        lines.append({**line, "user": user, "track": track, "recommendation": following, "experiments": {"TEST": arm}})
    return lines


def read(folder: Path, lines: list[Any]) -> Users:
    write_lines(folder / "data.json", lines)
    return read_users(folder, experiment="TEST", max_rejected=0.0, **READING)


def test_a_log_of_texts_gives_the_numbers_of_the_same_log_of_whole_numbers(tmp_path: Path) -> None:
    """Also with two sessions of a user at the same time, which recommendations separate."""

    def lines(user: Any, track: Any) -> list[dict[str, Any]]:
        at_once = zip(
            session(user(1), 5, tracks=(track(1), track(2), track(3))),
            session(user(1), 5, tracks=(track(4), track(5), track(6))),
            strict=True,
        )
        others = [session(user(number), number, "T1", (track(number), track(2))) for number in range(2, 30)]
        return [line for pair in at_once for line in pair] + [line for one in others for line in one]

    numbers = read(tmp_path / "numbers", lines(int, int))
    texts = read(tmp_path / "texts", lines("user/{}".format, "spotify:track:{}".format))
    assert numbers.user_keys.tolist() == [*range(1, 30)]
    order = [texts.user_keys.tolist().index(key_of(f"user/{user}")) for user in numbers.user_keys.tolist()]
    for name in ("arm_of", "sessions", "tracks", "time", "latency_ms"):
        assert getattr(texts, name)[order].tolist() == getattr(numbers, name).tolist()
    assert texts.guards == numbers.guards
    assert texts.guards["interleaved_sessions"] == 2


def test_a_number_and_its_text_are_the_same_user(tmp_path: Path) -> None:
    """A service may be given the same id as either; 007 and +7 are other users."""
    users = read(
        tmp_path, [*session(7), *session("7", 100), *session("007"), *session("+7", arm="T1"), *session("8", 0, "T1")]
    )
    assert users.user_keys.tolist() == sorted(map(key_of, ("7", "8", "007", "+7")))
    assert users.sessions[users.user_keys.tolist().index(7)] == 2


def test_odd_texts_are_users_and_tracks_of_their_own(tmp_path: Path) -> None:
    lines = [line for number, one in enumerate(ODD_IDS) for line in session(one, 0, ("C", "T1")[number % 2], (one, 1))]
    users = read(tmp_path, lines)
    assert sorted(users.user_keys.tolist()) == sorted({key_of(one) for one in ODD_IDS})
    assert len(users) == len(ODD_IDS)
    assert not any(users.guards.values())


def test_guests_are_left_out_among_users_who_are_texts(tmp_path: Path) -> None:
    """A guest of the room is a whole number; a service of texts may write it as text."""
    users = read(tmp_path, [*session("ann"), *session("bob", arm="T1"), *session(GUESTS[3]), *session(str(GUESTS[-1]))])
    assert users.guards["lines_of_guests"] == 4
    assert len(users) == 2


def test_an_unpaired_surrogate_is_no_text_and_its_line_is_named(tmp_path: Path) -> None:
    wrong = json.dumps(session("\ud800")[0])
    with pytest.raises(InputError, match=r"1 of 5 lines are not events.* row 5 of .*: no message, timestamp, user"):
        read(tmp_path, [*session("ann"), *session("bob", arm="T1"), wrong])
