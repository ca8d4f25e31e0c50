"""When a run is resumed: what was named, what was found, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from segue.errors import InputError
from segue.runs.folder import RunRecord
from segue.runs.resume import PreviousRun, check_resumed_targets, named_run, run_to_resume, words_of_run


def started(folder: Path, *overrides: str, data_digest: str = "d0") -> Path:
    folder.mkdir()
    RunRecord(overrides=list(overrides), mlflow_run_id="abc", data_digest=data_digest).write(folder)
    return folder


def nowhere(name: str, tracking_uri: str | None) -> Path:
    raise AssertionError(f"{name} was looked for in {tracking_uri}")


def folder_itself(name: str, _: str | None) -> Path:
    """The name of a run that is its folder."""
    return Path(name)


@pytest.mark.parametrize("words", [["model=track"], ["resume=true"], ["resume=null", "-m"], ["resume="]])
def test_other_words_of_runs_stay_as_they_are(words: list[str]) -> None:
    assert words_of_run(words, nowhere) == words


def test_a_run_gets_what_it_was_given_before_what_is_given_now(tmp_path: Path) -> None:
    run = started(tmp_path / "it's", "model=track", "+x=1", "seed=2")
    quoted = f"'{tmp_path}/it\\'s'"
    words = words_of_run([f"resume={run}", "seed=3", "hydra.run.dir=other"], folder_itself)
    assert words == ["model=track", "+x=1", "seed=3", f"resume={quoted}", f"hydra.run.dir={quoted}"]


def test_the_folder_of_a_run_is_looked_for_in_the_store_of_the_words_of_run(tmp_path: Path) -> None:
    run, asked = started(tmp_path / "run", "model=track"), list[tuple[str, str | None]]()

    def folder_of(name: str, tracking_uri: str | None) -> Path:
        asked.append((name, tracking_uri))
        return run

    assert words_of_run(["resume=run:0af3", "logger.tracking_uri=sqlite:///x.db"], folder_of)[0] == "model=track"
    assert asked == [("run:0af3", "sqlite:///x.db")]


def test_a_run_does_not_hand_on_what_it_trusts(tmp_path: Path) -> None:
    run = started(tmp_path / "run", "trust=[os]", "+trust=os", "++trust=os", "resume=other", "model=track")
    assert words_of_run([f"resume={run}"], folder_itself)[:-2] == ["model=track"]
    assert words_of_run([f"resume={run}", "trust=a"], folder_itself)[:-2] == ["model=track", "trust=a"]


@pytest.mark.parametrize(
    "word",
    [
        "--config-dir=/tmp",
        "-m",
        "--cfg=job",
        "hydra.searchpath=[file:///tmp]",
        "search.x=1",
        "trust@x=os",
        "+model@hydra.callbacks.x=convex",
        "model=../../../evil",
        "model=[../../../evil]",
        "run_name=${oc.env:HOME}",
    ],
)
def test_a_word_that_hydra_would_obey_is_not_taken_from_a_run(tmp_path: Path, word: str) -> None:
    run = started(tmp_path / "run", "model=track", word)
    with pytest.raises(InputError, match=r"^resume=.*: its run.json has the setting .* do not resume") as error:
        words_of_run([f"resume={run}"], folder_itself)
    assert word in str(error.value)


def test_words_of_a_run_that_refer_to_a_setting_are_taken(tmp_path: Path) -> None:
    words = ["callbacks.listening.world=${world}", "datamodule.path=../a/b", "+x={a: 1, b: [2]}", "~callbacks.plots"]
    run = started(tmp_path / "run", *words)
    assert words_of_run([f"resume={run}"], folder_itself)[:-2] == words


def test_a_resumed_run_builds_nothing_of_another_package() -> None:
    config = {"resume": "run", "trust": None, "a": {"_target_": "${b}"}, "b": "os.system"}
    with pytest.raises(InputError, match=r"^resume=run: its settings build os.system"):
        check_resumed_targets(OmegaConf.create(config))
    for resume in (None, True, False):
        check_resumed_targets(OmegaConf.create({**config, "resume": resume}))


@pytest.mark.parametrize("overrides", [None, [1], "model=track"])
def test_a_record_without_words_is_damaged(tmp_path: Path, overrides: Any) -> None:
    run = started(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "overrides": overrides}))
    with pytest.raises(InputError, match=r"run.json is damaged"):
        words_of_run([f"resume={run}"], folder_itself)


def test_a_sweep_resumes_no_single_run() -> None:
    with pytest.raises(InputError, match="in a sweep use resume=true"):
        words_of_run(["-m", "resume=run"], nowhere)


def test_a_new_run_is_not_written_over_another(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(InputError, match="holds a run already"):
        named_run(OmegaConf.create({"resume": None, "run_dir": str(tmp_path)}))


def test_of_a_run_that_was_begun_the_remedy_is_to_resume_it(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    (run / "config.yaml").touch()
    with pytest.raises(InputError, match=f"already; resume={run} continues it if it was stopped; for a new run choose"):
        named_run(OmegaConf.create({"resume": None, "run_dir": str(run)}))


def test_the_run_that_is_named_is_resumed_on_the_same_data_alone(tmp_path: Path) -> None:
    named = PreviousRun(run_dir=started(tmp_path / "run"), run_id="abc")
    assert run_to_resume(named, [], data=Path("data"), data_digest="d0") is named
    with pytest.raises(InputError, match=r"data has other data than it began with; start a new run"):
        run_to_resume(named, [], data=Path("data"), data_digest="d1")


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ({"model": {"dim": 16}}, r"its own settings, and model.dim was 16, not 32; start a new run"),
        ({"model": {}}, r"its own settings, and model.dim was absent, not 32"),
        ({"model": {"dim": 32}, "trainer": {"max_epochs": 3}}, None),
    ],
)
def test_a_run_with_other_settings_is_refused(tmp_path: Path, before: dict[str, Any], message: str | None) -> None:
    folder = started(tmp_path / "run")
    OmegaConf.save(OmegaConf.create(before), folder / "config.yaml")
    config = OmegaConf.create({"resume": str(folder), "model": {"dim": 32}})
    if message is None:
        assert named_run(config) is not None
        return
    with pytest.raises(InputError, match=message):
        named_run(config)


@pytest.mark.parametrize(
    ("values", "taken"), [([], None), ([None, None], 0), ([None, 0.5, 0.7], 1), ([float("nan")], 0)]
)
def test_of_the_same_runs_the_newest_finished_is_taken_and_else_the_newest(
    values: Sequence[float | None], taken: int | None
) -> None:
    same = [PreviousRun(run_dir=Path(str(n)), run_id=str(n), value=value) for n, value in enumerate(values)]
    found = run_to_resume(None, same, data=Path("data"), data_digest="d0")
    assert found is (None if taken is None else same[taken])
