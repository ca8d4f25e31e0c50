"""A result says where it comes from."""

import subprocess
from pathlib import Path

import pytest

from segue.runs.provenance import (
    ROOT,
    as_called,
    call_of,
    changed_files,
    command,
    git_diff,
    git_state,
    provenance,
    running,
)
from tests.conftest import ROOT as CLONE


def test_a_checkout_says_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {"git_commit": "unknown", "git_dirty": "unknown"}
    assert changed_files(tmp_path) is None
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    (tmp_path / "file").write_text("a")
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    state = git_state(tmp_path)
    assert len(state["git_commit"]) == 40
    assert state["git_dirty"] == "false"
    (tmp_path / "notes").write_text("no code")
    assert changed_files(tmp_path) == []
    (tmp_path / "new.py").write_text("pass")
    (tmp_path / "file").write_text("b")
    assert changed_files(tmp_path) == ["file", "new.py"]
    assert git_state(tmp_path) == {**state, "git_dirty": "true"}


def test_an_installed_package_says_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.runs.provenance.version", {"segue": "1.2"}.__getitem__)
    assert git_state(None) == {"git_commit": "segue-1.2", "git_dirty": "unknown"}
    assert (changed_files(None), git_diff(None)) == (None, "")
    monkeypatch.setattr("segue.runs.provenance.CLONE", None)
    assert call_of("train") == "segue train"


def test_commands_are_named_as_this_process_was_started() -> None:
    text = "python train.py -m model=track, then python compare.py; serve.py wrote data/serve.py, not retrain.py"
    assert as_called(text) == text
    with running(["segue compare", "a b"]):
        assert (call_of("train"), command()) == ("segue train", "segue compare 'a b'")
        named = "segue train -m model=track, then segue compare; segue serve wrote data/serve.py, not retrain.py"
        assert as_called(text) == named
    assert call_of("train") == "python train.py"


def test_provenance_is_of_this_clone_wherever_it_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ROOT == CLONE
    monkeypatch.chdir(tmp_path)
    assert {**provenance(), **git_state(CLONE)} == provenance()
