"""The service with `context=listener`: what a listener heard in earlier sessions is a part of the query."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.picking.listener_scores import FEATURES
from segue.runs.profiles import DAY_MS
from segue.serving.log_writer import now_ms
from segue.serving.profile_memory import FILE, MappedProfiles
from segue.serving.release import Release
from segue.serving.release_store import FolderStore
from segue.serving.settings import ProfileSettings
from segue.serving.state import follow_store
from tests.conftest import make_catalog, make_vectors
from tests.e2e.running import PATIENCE_S
from tests.serving.conftest import arm, lists_of, make_release, writer
from tests.serving.test_app import Running, drive, running

NUM = 12
BODY = b'{"track": 100, "time": 0.5}'


def listener_release(
    folder: Path, context: str = "listener", pick: str = "ranked", experiment: str = "TEST", **weights: float
) -> Release:
    """Tracks 100 to 111 of two artists; the two after each on a ring are its list."""
    vectors = replace(
        make_vectors(NUM),
        context="listener",
        listener=np.array([weights.get(name, 0.0) for name in FEATURES], np.float32),
    )
    lists = lists_of([(row + 1) % NUM, (row + 2) % NUM] for row in range(NUM))
    return make_release(
        folder / "release",
        catalog=make_catalog([0] * 6 + [1] * 6),
        arms={"C": arm(pick=pick, context=context, num_lists=2)},
        lists={"C": lists},
        vectors={"C": vectors},
        experiment=experiment,
    )


def memory(folder: Path, **given: Any) -> MappedProfiles:
    (folder / "store").mkdir(exist_ok=True)
    return MappedProfiles(folder / "store", ProfileSettings(**{"capacity": 64, **given}))


async def session(service: Running, user: object, tracks: Sequence[int], **more: object) -> list[int]:
    """Play tracks to their end, the last one with `/last`; returns what was recommended after each other one."""
    found = []
    for place, track in enumerate(tracks):
        call = "last" if place == len(tracks) - 1 else "next"
        answer = await service.ask("POST", f"/{call}/{user}", json.dumps({"track": track, "time": 1, **more}).encode())
        assert answer.status == 200
        found += [answer.json()["track"]] if call == "next" else []
    return found


def test_a_new_listener_is_answered_as_from_the_session_alone(tmp_path: Path) -> None:
    found = []
    for context in ("session", "listener"):
        release = listener_release(tmp_path / context, context, heard=100.0)

        async def work(service: Running) -> None:
            found.append([await session(service, user, [100 + user, 103, 107, 104]) for user in range(8)])

        drive(release, tmp_path / context, work, profiles=memory(tmp_path))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("settings", "more", "is_kept"),
    [
        ({}, {}, True),
        ({}, {"remember": None}, True),
        ({}, {"remember": False}, False),
        ({"remember": "consenting"}, {}, False),
        ({"remember": "consenting"}, {"remember": True}, True),
    ],
)
async def test_without_consent_nothing_is_kept_and_nothing_is_known(
    tmp_path: Path, settings: dict[str, str], more: dict[str, object], is_kept: bool
) -> None:
    async with running(
        listener_release(tmp_path, heard=100.0, share=1.0), tmp_path, profiles=memory(tmp_path, **settings)
    ) as service:
        await session(service, 7, [105, 106], **more)
        assert (await service.ask("GET", "/profile/7")).status == (200 if is_kept else 404)
        assert (await session(service, 7, [100, 101], **more) not in ([101], [102])) == is_kept
        if is_kept:
            assert await session(service, 7, [100, 101], remember=False) in ([101], [102])

        lines = [json.loads(line) for line in service.lines()]
        assert [line.get("remember") for line in lines[:2]] == [None if is_kept else False] * 2


def test_no_profile_is_kept_where_no_arm_needs_it_or_it_is_switched_off(tmp_path: Path) -> None:
    async def work(service: Running) -> None:
        await session(service, 7, [100, 101, 102])
        answer = await service.ask("GET", "/profile/7")
        assert (answer.status, answer.json()) == (404, {"reason": "user 7 has no profile"})

    profiles = memory(tmp_path)
    drive(listener_release(tmp_path, "session", heard=100.0), tmp_path, work, profiles=profiles)
    drive(listener_release(tmp_path / "other", heard=100.0), tmp_path / "other", work)
    assert not (tmp_path / "store" / FILE).exists()


async def test_guests_of_the_room_have_no_profile(tmp_path: Path) -> None:
    async with running(listener_release(tmp_path), tmp_path, profiles=memory(tmp_path)) as service:
        await session(service, 10**18 - 5, [100, 101])
        assert (await service.ask("GET", f"/profile/{10**18 - 5}")).status == 404


def test_a_known_track_is_explained(tmp_path: Path) -> None:
    weights: dict[str, Any] = {"heard": 3.0, "share": 0.5, "artist_plays": 0.25}
    profiles, eight_days_ago = memory(tmp_path), now_ms() - 8 * DAY_MS
    for number in range(12):
        asyncio.run(profiles.play(7, 106, 0.5, eight_days_ago - number))
    asyncio.run(profiles.play(7, -5, 0.5, eight_days_ago - 100))  # a track of an older release

    async def work(service: Running) -> None:
        assert await session(service, 7, [100, 106]) == [106]
        await service.ask("POST", "/next/7", BODY)
        found = (await service.ask("GET", "/explain/7")).json()
        of_listener = found["listener"]
        added = 3 + 0.5 * 0.5 + 0.25 * np.log1p(13 * 2 ** (-8 / 30))  # nearly: its last play was just now, and whole
        assert (found["context"], found["recommended"]["track"], found["rank"]) == ("listener", 106, 1)
        assert found["score"] == pytest.approx(sum(found["parts"].values()), abs=1e-5)
        assert of_listener["is_heard"]
        assert of_listener["added"] == pytest.approx(sum(found["parts"][name] for name in weights), abs=1e-5)
        assert of_listener["added"] == pytest.approx(added, abs=0.1)
        listed = (await service.ask("GET", "/profile/7")).json()["tracks"]
        assert {(one["track"], one["title"], one["is_known"]) for one in listed[:2]} == {
            (100, "Title 0", True),
            (106, "Title 6", True),
        }
        assert [(one["track"], one["title"], one["is_known"]) for one in listed[2:]] == [(None, "", False)]

    drive(listener_release(tmp_path, **weights), tmp_path, work, profiles=profiles)


def test_a_track_of_a_known_artist_is_explained_by_the_artist(tmp_path: Path) -> None:
    profiles = memory(tmp_path)
    asyncio.run(profiles.play(7, 103, 1.0, now_ms() - 2 * DAY_MS))

    async def work(service: Running) -> None:
        await service.ask("POST", "/next/7", BODY)
        await service.service.state.sessions.note(7, _noted(service, 101))
        found = (await service.ask("GET", "/explain/7")).json()
        assert found["listener"]["sentence"] == "its artist was heard once, last 2 days ago, +2.00"
        assert (found["listener"]["is_heard"], found["parts"]["artist_share"]) == (False, 2.0)
        assert "heard" not in found["parts"]

    drive(listener_release(tmp_path, heard=1.0, artist_share=2.0), tmp_path, work, profiles=profiles)


def _noted(service: Running, track: int) -> Any:
    from segue.serving.session_memory import Noted

    return Noted(track, 1.0, False, service.service.state.recommender.release.version, with_past=True)


async def test_a_release_that_needs_profiles_gets_their_file_when_it_is_loaded(tmp_path: Path) -> None:
    store, profiles = FolderStore(tmp_path / "store", keep=3), memory(tmp_path)
    store.load(writer())

    async with running(store.open(), tmp_path, profiles=profiles) as service:
        state = service.service.state
        following = asyncio.ensure_future(follow_store(state, store, poll_s=0.01, rng=np.random.default_rng(0)))
        new = listener_release(tmp_path)
        store.load(lambda folder: [path.rename(folder / path.name) for path in new.folder.iterdir()])
        async with asyncio.timeout(PATIENCE_S):
            while not state.recommender.knows_listeners:
                await asyncio.sleep(0.01)
        following.cancel()
        assert (tmp_path / "store" / FILE).exists()
