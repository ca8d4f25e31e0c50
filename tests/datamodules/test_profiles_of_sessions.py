"""Profiles of all listeners of a log, and listeners who are left out."""

from pathlib import Path

import numpy as np
import pytest

from segue.catalog import key_of
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.pairs import profiles_of_sessions
from segue.datamodules.pairs.profiles_of_sessions import ids_in, profiles_of
from segue.errors import InputError
from segue.runs.profiles import ENTRY, add_play
from tests.conftest import read_datamodule

START_S = 1_700_000_000


def read(folder: Path, users: list[str], **policies: object) -> PairDataModule:
    """Ten sessions of each user, of three tracks each."""
    lines = ["user,timestamp,track,title,artist"]
    for session in range(10):
        for nth, user in enumerate(users):
            for step in range(3):
                row = (session * 7 + nth * 3 + step) % 11
                time = START_S + session * 86_400 + nth * 3600 + step
                lines.append(f"{user},{time},{row},Title {row},Artist {row}")
    (folder / "plays.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_datamodule(folder / "plays.csv", folder, source="table", policies=policies)


@pytest.mark.parametrize("users", [["7", "8", "9"], ["ann", "bob", "cid"]])
def test_profiles_of_a_log_are_what_a_service_would_have_kept(
    tmp_path: Path, users: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, slow = read(tmp_path, users), {user: np.zeros(20, ENTRY) for user in users}
    listens, sessions = data.sessions.listens, data.sessions
    for event in np.argsort(sessions.timestamp, kind="stable").tolist():
        user, track = str(sessions.user[listens.session[event]]), int(data.catalog.keys[listens.track[event]])
        add_play(slow[user], track, np.nan, int(sessions.timestamp[event]))
    for at_once in (1 << 22, 40):  # some listeners at a time
        monkeypatch.setattr(profiles_of_sessions, "_AT_ONCE", at_once)
        profiles = profiles_of(sessions, data.catalog)
        assert sorted(profiles.listeners) == sorted(map(key_of, users))
        for user in users:
            [fast] = profiles.of_listeners(np.array([key_of(user)]))
            fast, own = fast[fast["plays"] > 0], slow[user][slow[user]["plays"] > 0]
            fast, own = fast[np.argsort(fast["track"])], own[np.argsort(own["track"])]
            for name in ENTRY.names or ():
                np.testing.assert_allclose(fast[name], own[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("users", [["7", "8", "9"], ["ann", "bob", "cid"]])
def test_listeners_of_a_file_are_left_out_and_counted(tmp_path: Path, users: list[str]) -> None:
    (tmp_path / "removed.txt").write_text(f"{users[1]}\n\nnobody\n", encoding="utf-8")
    data = read(tmp_path, users, without=str(tmp_path / "removed.txt"))
    assert {str(user) for user in data.sessions.user} == {users[0], users[2]}
    assert data.dropped["without"] == 30
    assert data.reading.num_events == 60
    assert any("30 by without" in line for line in data.remarks())
    profiles = data.profiles()
    assert profiles is not None
    assert profiles.listeners.tolist() == sorted(key_of(user) for user in (users[0], users[2]))


def test_a_file_of_ids_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert ids_in(None) == []
    with pytest.raises(InputError, match=r"datamodule\.policies\.without=.*gone\.txt cannot be read .*; give a file"):
        ids_in(str(tmp_path / "gone.txt"))
