"""The control of 2026 in the service: a ring of ten plays of each user, over sessions, arms and restarts."""

import asyncio
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from segue.errors import InputError
from segue.serving.last_plays import make_last_plays
from segue.serving.recommender import Recommender
from segue.serving.release import Release
from segue.serving.settings import (
    LimitSettings,
    LogSettings,
    ProfileSettings,
    ServiceSettings,
    SessionSettings,
    StoreSettings,
)  # fmt: skip
from segue.serving.stores import make_sessions
from tests.conftest import ROOT, make_catalog
from tests.serving.conftest import arm, lists_of, make_release
from tests.serving.test_app import running
from tests.test_control_2026 import POLICY, chances_of

NUM = 30
LISTS = [[] if row % 3 == 0 else [row // 5 * 5 + (row + step) % 5 for step in (2, 1, 4)] for row in range(NUM)]


def settings_of(folder: Path, **profiles: Any) -> ServiceSettings:
    return ServiceSettings(
        run_dir=str(folder), host="", port=0, workers=1, seed=1, room={},
        store=StoreSettings(kind="embedded", folder=str(folder / "store")), sessions=SessionSettings(capacity=64),
        profiles=ProfileSettings(**profiles), log=LogSettings(fsync="never"), limits=LimitSettings(),
    )  # fmt: skip


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Tracks 100 to 129 of one artist; arm C is the control, arm T1 is not."""
    own = {"C": arm(POLICY), "T1": arm(pick="ranked")}
    catalog = make_catalog([0] * NUM)
    return make_release(tmp_path / "release", catalog=catalog, arms=own, lists=dict.fromkeys(own, lists_of(LISTS)))


async def play(
    release: Release, settings: ServiceSettings, walk: list[tuple[str, int, Any]], **sent: Any
) -> list[dict[str, Any]]:
    """Start a service, send calls of users, stop; a track None is the recommended one. Returns the lines of its log."""
    folder, following = Path(settings.run_dir), dict[int, Any]()
    (folder / "store").mkdir(exist_ok=True, parents=True)
    of_state: dict[str, Any] = {"sessions": make_sessions(settings), "last_plays": make_last_plays(settings)}
    of_state["remember"] = settings.profiles
    async with running(release, folder, policies=[POLICY], of_state=of_state) as service:
        for call, user, asked in walk:
            track: Any = following[user] if asked is None else asked
            body = {"track": track, "time": (track * 7 + user) % 5 / 4, **sent}
            answer = await service.ask("POST", f"/{call}/{user}", json.dumps(body).encode())
            assert answer.status == 200, answer.body
            following[user] = answer.json().get("track")
        return [json.loads(line) for line in service.lines()]


def users_of(release: Release, name: str, num: int) -> list[int]:
    ours = Recommender(release, np.random.default_rng(0), [POLICY])
    return [user for user in range(200) if ours.arm_of(user) == name][:num]


def session(user: int, first: int, length: int) -> list[tuple[str, int, Any]]:
    return [("next", user, first), *[("next", user, None)] * (length - 2), ("last", user, None)]


def check(lines: list[dict[str, Any]]) -> list[int]:
    """The lines against the slow loop; returns how long the ring was at each answer of the control."""
    rings, lengths = defaultdict[int, list[tuple[int, int]]](list), []
    for line in lines:
        ring = rings[line["user"]]
        ring.insert(0, (line["track"] - 100, round(100 * line["time"])))
        del ring[10:]
        if line["message"] == "next" and line["experiments"] == {"TEST": "C"}:
            expected = chances_of(ring, LISTS, NUM)[line["recommendation"] - 100]
            assert line["propensity"] == pytest.approx(float(expected))
            lengths.append(len(ring))
    return lengths


def test_answers_are_those_of_the_rule_over_sessions_and_a_restart(release: Release, tmp_path: Path) -> None:
    users, settings = users_of(release, "C", 4), settings_of(tmp_path / "service")
    walk = [call for number in range(3) for user in users for call in session(user, 100 + 7 * number + user % 3, 5)]
    asyncio.run(play(release, settings, walk))
    lines = asyncio.run(play(release, settings, walk))  # in the same store, and the log goes on
    assert len(lines) == 2 * len(walk)
    lengths = check(lines)
    assert lengths.count(10) > len(walk), "the ring is full after ten plays, and stays so"


def test_plays_in_other_arms_count_and_a_session_of_another_arm_is_as_ever(release: Release, tmp_path: Path) -> None:
    """A user whose arm changes with the experiment keeps the last plays."""
    (user,) = users_of(release, "T1", 1)
    settings = settings_of(tmp_path / "service")
    (first, *_) = asyncio.run(play(release, settings, session(user, 101, 4)))
    assert (first["recommendation"], first["propensity"]) == (103, 1.0), "the best of its list"
    changed = make_release(
        tmp_path / "next", catalog=make_catalog([0] * NUM), arms={"C": arm(POLICY)},
        lists={"C": lists_of(LISTS)},
    )  # fmt: skip
    lengths = check(asyncio.run(play(changed, settings, session(user, 102, 3))))
    assert lengths[0] == 5, "four plays of the other arm, and this one"


@pytest.mark.parametrize(("remember", "sent"), [("none", {}), ("all", {"remember": False})])
def test_without_consent_only_the_session_counts(
    release: Release, tmp_path: Path, remember: str, sent: dict[str, Any]
) -> None:
    (user,) = users_of(release, "C", 1)
    settings = settings_of(tmp_path / "service", remember=remember)
    walk = [*session(user, 101, 3), ("next", user, 112)]
    last = asyncio.run(play(release, settings, walk, **sent))[-1]
    ring = [(12, round(100 * last["time"]))]
    assert last["propensity"] == pytest.approx(float(chances_of(ring, LISTS, NUM)[last["recommendation"] - 100]))


def test_a_class_that_the_user_did_not_name_is_not_imported(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release may come from a stranger."""
    monkeypatch.delitem(sys.modules, "examples.course_2026.control_2026", raising=False)
    message = r"arm C of release .* has policy=examples.*, which this service may not import; start it with policies="
    with pytest.raises(InputError, match=message):
        Recommender(release, np.random.default_rng(0), ["os:system"])
    assert "examples.course_2026.control_2026" not in sys.modules


def test_the_classes_of_the_arms_that_were_typed_may_be_imported() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        words = ["arms={C: random, T1: {recommender: r, policy: 'a:B'}}", "policies=['c.d:E']", "run_dir=x"]
        given: Any = OmegaConf.to_container(compose("serve", [*words, "store.folder=x"]), resolve=True)
    assert ServiceSettings.of(given).policies == ["c.d:E", "a:B"]
