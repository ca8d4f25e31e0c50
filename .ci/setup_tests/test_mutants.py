"""The settings of `make mutants` name what exists."""

import tomllib

import pytest

from tests.conftest import ROOT

SETTINGS = tomllib.loads((ROOT / ".ci/setup_tests/mutants/mutants.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("room", SETTINGS["tests"])
def test_a_room_and_its_tests_exist(room: str) -> None:
    assert [name for name in (room, *SETTINGS["tests"][room]) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("one", SETTINGS.get("equivalent", []), ids=lambda one: str(one["after"]))
def test_a_fault_that_changes_nothing_is_one_of_the_code_and_has_a_reason(one: dict[str, str]) -> None:
    code = (ROOT / one["file"]).read_text(encoding="utf-8")
    assert one["before"] in " ".join(line.strip() for line in code.splitlines())
    assert one["after"] != one["before"]
    assert len(one["reason"]) > 20
