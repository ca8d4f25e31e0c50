"""`serve.py` remembers listeners over restarts, releases and workers, and forgets one of them at a command."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.picking.listener_scores import FEATURES
from segue.runs.catalog_files import read_catalog
from segue.runs.profiles import DAY_MS, FILE, Profiles, entries_of_events
from segue.runs.session_vectors import FILE as VECTORS
from segue.verdicts.abtest.log import read_users
from tests.conftest import make_vectors, write_lines
from tests.e2e.running import Redis, Running, redis_server, serve, serving

pytestmark = pytest.mark.timing

N = 30
STORE = "store.folder=store"
WORDS = "pick=ranked", "artist_gap=1", STORE


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose listener 7 loves track 120; what a listener has heard is always better than what they have not."""
    (folder := tmp_path / "of_training").mkdir()
    tracks = [{"artist": f"Artist {row}", "title": f"Title {row}", "track": 100 + row} for row in range(N)]
    lists = ({**one, "recommendations": [100 + (row + step) % N for step in (1, 2)]} for row, one in enumerate(tracks))
    write_lines(folder / "recommendations.jsonl", lists)
    write_lines(folder / "tracks.json", tracks)
    weights = np.array([50.0 * (name in ("heard", "last_week")) for name in FEATURES], np.float32)
    vectors = replace(make_vectors(N), context="listener", listener=weights)
    vectors.write(folder / VECTORS, read_catalog(folder / "tracks.json"))
    write_profiles(folder, {7: 120})
    return folder / "recommendations.jsonl"


def write_profiles(folder: Path, loved: dict[int, int]) -> None:
    users, tracks = (np.array(one, np.int64) for one in (list(loved), list(loved.values())))
    times = np.full(len(loved), time.time_ns() // 10**6 - DAY_MS)
    Profiles.of(*entries_of_events(users, tracks, np.ones(len(loved), np.float32), times)).write(folder / FILE)


def begin(service: Running, user: int, track: int = 100) -> int:
    """The first answer of a session."""
    answer = service.next(user, track)
    assert answer.status == 200
    assert service.ask("POST", f"/last/{user}", {"track": track, "time": 1}).status == 200
    return int(answer.body["track"])


def test_listeners_are_remembered_over_restarts_and_releases_and_removed_by_a_command(
    tmp_path: Path, run: Path, datamodule_of: Callable[..., PairDataModule]
) -> None:
    with serving(tmp_path, *WORDS, f"recommendations={run}", "workers=2", "sessions.capacity=64") as service:
        assert "context=listener, num_lists=4" in service.said()
        assert begin(service, 7) == 120
        assert {begin(service, 8) for _ in range(2)} <= {101, 102}, "what is known of 8 is of its session"
        assert begin(service, 8, 105) == 100
    write_profiles(run.parent, {7: 121, 9: 122})
    with serving(tmp_path, *WORDS, f"recommendations={run}", "workers=2", run="again") as service:
        assert [begin(service, user, 105) for user in (8, 9)] == [100, 122]
        assert begin(service, 7, 105) in (100, 120, 121)
        assert service.ask("GET", "/profile/7").status == 200
        num_lines = len(service.lines())
        done = serve(tmp_path, "forget", "listener=7", STORE)
        said = r"listener 7 is removed: profile and sessions; 4 lines of [1-4] event logs overwritten\n"
        assert re.fullmatch(said, done.stdout), done.stdout
        assert service.ask("GET", "/profile/7").status == 404
        serve(tmp_path, "load", *WORDS, f"recommendations={run}", "pick=weighted")
        assert begin(service, 7, 105) in (106, 107), "a run that knows them does not bring them back"
        assert num_lines == 6
    texts = [path.read_text() for path in tmp_path.rglob("data.json*")]
    lines = [json.loads(line) for text in texts for line in text.splitlines() if line.strip()]
    assert [line["track"] for line in lines if line["user"] == 7] == [105, 105], "those after the command"
    assert sum(line["user"] == 8 for line in lines) == 8
    users = read_users(
        tmp_path, experiment=None, max_rejected=0.0, interleaved="separate", session_gap_minutes=30,
        unfinished="keep", any_arms=True,
    )  # fmt: skip
    assert (users.num_events, users.guards["lines_rejected"]) == (len(lines), 0)
    for path in (tmp_path / "again").rglob("data.json"):
        if not path.stat().st_size:  # of a worker that nobody asked
            path.unlink()
    few = "no pairs left for test: 3 sessions with 3 pairs"  # and no row is rejected
    with pytest.raises(InputError, match=few):
        datamodule_of(tmp_path / "again", max_rejected=0.0).setup()


def test_forget_names_a_listener(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    assert (
        "forget: listener must be a whole number or a text, got None" in serve(tmp_path, "forget", STORE, code=2).stderr
    )
    assert "forget: there is no store" in serve(tmp_path, "forget", "listener=7", "store.folder=no", code=2).stderr
    done = serve(tmp_path, "forget", "listener=a/b", STORE)
    assert done.stdout.startswith('listener "a/b" is removed: sessions; there was no profile; 0 lines of 0 event logs')


def test_replicas_share_what_they_know_of_listeners(tmp_path: Path, run: Path) -> None:
    def words(server: Redis) -> tuple[str, ...]:
        return (*server.words, "pick=ranked", "artist_gap=1")

    with redis_server(tmp_path / "redis") as server:
        serve(tmp_path, "load", *words(server), f"recommendations={run}")
        with serving(tmp_path, *server.words, run="one") as one, serving(tmp_path, *server.words, run="two") as two:
            assert (begin(one, 7), begin(two, 7)) == (120, 120)
            begin(one, 8)
            assert begin(two, 8, 105) == 100
            done = serve(tmp_path, "forget", "listener=8", *server.words, "run_dir=.")
            assert "profile and sessions; 4 lines of 2 event logs overwritten" in done.stdout
            assert begin(two, 8, 105) in (106, 107)
