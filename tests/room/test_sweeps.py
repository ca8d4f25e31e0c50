"""The runs of the last comparison, and which of them may be served."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from segue.errors import InputError
from segue.room.sweeps import arms_with, last_comparison, load, side_by_side
from segue.serving.prepared_release import prepare_release
from segue.serving.release import Release
from tests.conftest import make_catalog
from tests.room.conftest import ARTIST_OF, cosine_vectors


def comparison(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    mean = {"num_runs": 2, "mean": 0.5, "lower": 0.4, "upper": 0.6, "leads": True}
    record = {
        "verdict": "convex is best",
        "disagreement": None,
        "select": "val/mrr",
        "better": {"val/mrr": "max"},
        "metrics": ["val/mrr", "test/nothing"],
        "setups": [{"setup": "convex", "run_ids": ["ab" * 16, "cd" * 16], "metrics": {"val/mrr": mean}}],
    }
    (folder / "comparison.json").write_text(json.dumps(record | changes))
    return folder


def test_the_newest_comparison_is_shown(tmp_path: Path) -> None:
    assert last_comparison(tmp_path) is None
    for place, name in enumerate(("b", "a")):
        os.utime(comparison(tmp_path / name) / "comparison.json", (place, place))
    assert last_comparison(tmp_path) == tmp_path / "a"
    found = side_by_side(tmp_path / "a")
    assert found["metrics"] == ["val/mrr"]  # what no set-up has is left out
    assert (found["setups"][0]["run"], found["setups"][0]["num_runs"]) == ("ab" * 16, 2)
    assert not found["has_picture"]


def test_a_damaged_comparison_is_refused(tmp_path: Path) -> None:
    comparison(tmp_path / "a", setups=[{}])
    with pytest.raises(InputError, match=r"cannot be read .*; run python compare.py again"):
        side_by_side(tmp_path / "a")


@pytest.mark.parametrize("run", ["", "../etc", "--help", "abc", "G" * 32, "ab" * 17, "abcdef12 port=1"])
def test_only_the_id_of_a_run_can_be_served(release: Release, run: str) -> None:
    with pytest.raises(InputError, match="run must be an id of 8 to 32 hexadecimal digits"):
        arms_with(release, "C", run)


@pytest.mark.parametrize("arm", ["C", "T1", "T2"])
def test_a_run_replaces_only_the_arm_that_was_chosen(release: Release, tmp_path: Path, arm: str) -> None:
    """The word is read as Hydra reads it, and prepared as `serve.py load` does."""
    lists, catalog = str(tmp_path / "r.jsonl"), make_catalog(ARTIST_OF)
    replace(cosine_vectors(), context="session").write(tmp_path / "vectors.npz", catalog)
    (tmp_path / "top_tracks.json").write_text("[101]")
    release.arms["T1"] = replace(release.arms["T1"], recommender="model:segue@champion", artist_gap=2)
    release.provenance["lists_T1"] = lists
    override = OverridesParser.create().parse_override(arms_with(release, arm, "abcdef12"))
    given: Any = override.value()
    assert given[arm]["recommender"] == "run:abcdef12"
    prepared = prepare_release(
        given,
        experiment=release.experiment,
        pick="uniform",
        artist_gap=0,
        context=None,
        num_lists=4,
        max_tracks=128,
        tracks=None,
        world=lambda: None,
        locate=lambda _: Path(lists),
    )
    for name, own in prepared.arms.items():
        before = release.arms[name]
        if name != arm:
            assert own == replace(before, recommender=lists if name == "T1" else before.recommender)
        else:
            assert (own.pick, own.artist_gap) == ("ranked", before.artist_gap)


def test_what_cannot_be_served_is_one_line_without_the_name_of_a_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as in the processes that serve.py starts
    with pytest.raises(InputError, match=r"^load: there is no store"):
        load("arms={C: poplar}", tmp_path / "store", "TEST")
