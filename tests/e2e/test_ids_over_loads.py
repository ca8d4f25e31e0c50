"""A service with texts as ids, six loads and rollbacks under load: no id is lost, or ever means another song."""

import http.client
import json
import random
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from segue.serving.loading import load, requested
from segue.serving.release_store import FolderStore
from tests.conftest import write_lines
from tests.e2e.running import PATIENCE_S, Running, serving, wait_until

IDS = [f"track:{UUID(int=random.Random(number).getrandbits(128))}/ü" for number in range(90)]
SONGS = {one: (f"Title {number}", f"Artist {number % 20}") for number, one in enumerate(IDS)}
NUM_CHANGES = 6


def write_release(path: Path, rng: random.Random) -> Path:
    """Sixty of the songs in any order, each with ten others."""
    ids = rng.sample(IDS, 60)
    write_lines(
        path,
        (
            {
                "artist": SONGS[one][1],
                "title": SONGS[one][0],
                "track": one,
                "recommendations": rng.sample([other for other in ids if other != one], 10),
            }
            for one in ids
        ),
    )
    return path


class Client:
    """Listeners in turn, who play what is recommended; everything that is wrong is collected."""

    def __init__(self, port: int, known: Callable[[], list[str]]) -> None:
        self.wrong: list[object] = []
        self.num_answers = 0
        self._is_over, self._known, self._port = threading.Event(), known, port
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Client":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _listen(self) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port)) as connection:
            self._play(connection, random.Random(0))

    def _play(self, connection: http.client.HTTPConnection, rng: random.Random) -> None:
        user = 0

        def asked(method: str, path: str, body: Any = None) -> Any:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 200:
                self.wrong.append((path, body, response.status, answer))
            return answer

        while not self._is_over.is_set() and not self.wrong:
            user, track, heard = user + 1, rng.choice(self._known()), set[str]()
            for _ in range(25):
                heard.add(track)
                track = asked("POST", f"/next/{user}", {"track": track, "time": 0.7}).get("track")
                record = asked("GET", f"/track/{quote(str(track), safe='')}")
                if track not in SONGS or (record.get("title"), record.get("artist")) != SONGS[track]:
                    self.wrong.append((user, track, record))
                if track in heard:
                    self.wrong.append((user, track, "its session has heard it"))
                self.num_answers += 1
                if self.wrong or self._is_over.is_set():
                    break


@pytest.mark.timing
def test_ids_keep_their_meaning_over_loads_and_rollbacks_under_load(tmp_path: Path) -> None:
    rng = random.Random(1)
    words = f"recommendations={write_release(tmp_path / 'first.jsonl', rng)}", "pick=ranked"
    with serving(tmp_path, *words) as running:
        store = FolderStore(running.run / "store", keep=5)
        recommended: dict[str, set[str]] = {}
        known = set[str]()

        def settle() -> None:
            """Until the service has the current release; all that it says of tracks is checked, of kept ones too."""
            release = store.open()
            wait_until(lambda: running.version() == release.version, "the current release")
            names = [str(release.id_of(row)) for row in range(len(release))]
            assert known <= set(names), "it knows all that any release before it knew"
            known.update(names)
            kept = {names[row] for row in release.kept.tolist()}
            recommended[release.version] = set(names) - kept
            recommended.update(dict.fromkeys(release.extends, recommended[release.version]))
            for one in rng.sample(sorted(known), 3) + rng.sample(sorted(kept), min(3, len(kept))):
                record = running.ask("GET", f"/track/{quote(one, safe='')}").body
                assert (record["title"], record["artist"], record["track"]) == (*SONGS[one], one)
                assert (record["recommendations"] == []) == (one in kept)

        settle()
        with Client(running.port, lambda: sorted(known)) as client:
            for number in range(NUM_CHANGES):
                before = client.num_answers
                if number % 3 == 2:
                    store.rollback()
                else:
                    load_into(running, write_release(tmp_path / f"{number}.jsonl", rng))
                settle()
                wait_until(lambda: client.wrong or client.num_answers > before + 10, "answers after a change")  # noqa: B023
        assert client.wrong == []
        lines = running.lines()
        assert {line["recommendation"] in recommended[line["release"]] for line in lines} == {True}
        assert {line["release"] for line in lines} >= {store.open().version}
        assert any(line["track"] not in recommended[line["release"]] for line in lines), "kept tracks were played"

        def tracks_are_right() -> bool:
            records = [json.loads(line) for line in (running.run / "tracks.json").read_text().splitlines()]
            return {one["track"]: (one["title"], one["artist"]) for one in records} == {
                one: SONGS[one] for one in known
            }

        wait_until(tracks_are_right, "tracks.json of the current release")


def load_into(running: Running, lists: Path) -> None:
    """As `serve.py load` does, without a process of its own."""
    given = json.loads((running.run / "serve.json").read_text())
    given["store"] |= {"url": None}
    usual = {
        "pick": "ranked",
        "artist_gap": 0,
        "exploration": 0.0,
        "exploration_plays": 1,
        "familiar": 1.0,
        "fallback": "artist",
        "num_lists": 4,
    }
    more = {"arms": None, "recommendations": str(lists), "experiment_name": "SEGUE", "arm_context": None}
    request = requested(
        {**given, **usual, **more, "tracks": None, "accept_changes": False, "do": "load"},
        world=dict,
        locate=Path,
        provenance=dict,
    )
    load(request, {**given, "do": "load"})
