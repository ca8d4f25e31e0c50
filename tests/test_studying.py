"""What every study does: its smallest size, files that are not committed, and the runner of all of them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import smoke, studying
from experiments.studying import Study, sized
from segue.errors import InputError
from tests.conftest import ROOT


def test_make_studies_runs_the_scripts_that_have_a_smallest_size_and_no_others() -> None:
    with_size = [path for path in ROOT.glob("experiments/*/*.py") if has_smallest_size(path)]
    scripts = smoke.living_scripts()
    assert sorted(scripts) == sorted(str(path.relative_to(ROOT)) for path in with_size)
    table = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    living = re.findall(r"^\| \[(\w+)\].*\| today's commit \|$", table, flags=re.MULTILINE)
    assert {Path(script).parent.name for script in scripts} == set(living)


def has_smallest_size(path: Path) -> bool:
    """Whether a script has a `Study`, whose parser has --smoke, and reads the command line and runs by it."""
    text = path.read_text(encoding="utf-8")
    wanted = (r"^STUDY = Study\(__file__, __doc__\)$", r"STUDY\.parse\(|main_of\(STUDY,", r"^    STUDY\.run\(")
    return all(re.search(line, text, flags=re.MULTILINE) for line in wanted)


def started(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str, changed: list[str] | None = None) -> Study:
    """A study in a folder, at the begin of a call."""
    (folder / "question").mkdir(exist_ok=True)
    monkeypatch.setattr(sys, "argv", ["study.py", *words])
    monkeypatch.setattr(studying, "ROOT", folder)
    monkeypatch.setattr(studying, "changed_files", lambda: changed or [])
    return Study(str(folder / "question" / "study.py"), "What?")


def test_a_study_refuses_files_that_are_not_committed_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = ["src/catalog.py", "question/README.md", "question/study.py", "question/load.lua"]
    study = started(monkeypatch, tmp_path, changed=[*changed, "question/results.md", "question/pieces.csv"])
    message = (
        r"^src/catalog.py, question/README.md, question/study.py and 1 more differ from the commit that the results "
        r"would name; commit them, or add --dirty, and the tables will say so$"
    )
    with pytest.raises(InputError, match=message):
        study.parse()

    def main() -> None:
        study.parse()
        study.write_table("results.md", ["never"])

    with pytest.raises(SystemExit) as stopped:
        study.run(main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: src/catalog.py, ")
    assert not (tmp_path / "question" / "results.md").exists()


def test_the_results_of_a_study_do_not_make_its_tree_dirty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = started(monkeypatch, tmp_path, changed=["question/results.md", "question/pieces.csv"])
    study.parse()
    study.write_table("results.md", ["| a |", ""])
    assert (tmp_path / "question" / "results.md").read_text() == "| a |\n"
    assert study.provenance()["git_dirty"] == "false"
    assert len(study.commit()) == 9


def test_with_dirty_the_table_names_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = started(monkeypatch, tmp_path, "--dirty", changed=["src/catalog.py"])
    study.parse()
    study.write_table("results.md", ["| a |"])
    *_, last = (tmp_path / "question" / "results.md").read_text().splitlines()
    assert last == "Written with `--dirty`: src/catalog.py differed from the commit."
    assert study.provenance()["git_dirty"] == "true"
    assert study.commit().endswith("+")


@pytest.mark.parametrize("out", [None, "elsewhere"])
def test_a_smoke_never_touches_the_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: str | None) -> None:
    words = ["--smoke"] if out is None else ["--smoke", "--out", str(tmp_path / out)]
    study = started(monkeypatch, tmp_path, *words, changed=["src/catalog.py"])
    monkeypatch.setattr(studying, "warm_up", lambda: None)
    (tmp_path / "question" / "results.md").write_text("committed")
    folder = tmp_path / (out or "outputs/smoke/question-study")
    folder.mkdir(parents=True)
    if out is None:
        (folder / "pieces.csv").write_text("of an earlier smoke")
    study.parse()
    study.write_table("results.md", ["| small |"])
    study.write_provenance()
    assert study.folder == folder
    assert sorted(path.name for path in folder.iterdir()) == ["provenance.json", "results.md"]
    assert (folder / "results.md").read_text() == "| small |\n"
    assert (tmp_path / "question" / "results.md").read_text() == "committed"
    assert folder in study.work.parents
    assert sized("full", "small") == "small"


def test_a_smoke_refuses_a_folder_that_has_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = started(monkeypatch, tmp_path, "--smoke", "--out", str(tmp_path / "question"))
    (tmp_path / "question" / "results.md").write_text("committed")
    with pytest.raises(InputError, match="has files, which a smoke must not change; name an empty folder"):
        study.parse()
    assert (tmp_path / "question" / "results.md").read_text() == "committed"


def test_a_smoke_leaves_out_data_that_are_not_there_and_a_study_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGUE_DATA", str(tmp_path))
    missing = f"{tmp_path / 'yes-small'} does not exist; SEGUE_DATA names the folder of the data sets"
    with pytest.raises(InputError, match=re.escape(missing)):
        studying.available("simulated", "yes")
    monkeypatch.setattr(sys, "argv", ["study.py", "--smoke"])
    assert studying.available("simulated", "yes") == ["simulated"]
    assert capsys.readouterr().out == f"skipped      {missing}\n"
    (tmp_path / "yes-small").mkdir()
    assert studying.available("simulated", "yes") == ["simulated", "yes"]


def test_the_runner_reports_each_script_and_the_output_of_those_that_fail(tmp_path: Path) -> None:
    bodies = {
        "good": "import sys; print('hidden', sys.argv[1:], __name__)",
        "bad": "print('shown'); raise ValueError('why')",
        "partly": "print('skipped      Spark: missing')",
    }
    for name, body in bodies.items():
        (tmp_path / f"{name}.py").write_text(body)
    scripts = [str(tmp_path / f"{name}.py") for name in bodies]
    patched = f"smoke.ROOT, smoke.warm_up, smoke.living_scripts = Path({str(tmp_path)!r}), str, lambda: {scripts}"
    code = f"from pathlib import Path; from experiments import smoke; {patched}; smoke.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert ", 1 failed; what they printed is in " in lines[-1]
    assert {line.split()[0]: line.rpartition("CPU  ")[2] for line in lines if line.startswith(str(tmp_path))} == {
        scripts[0]: "ok", scripts[1]: "failed with code 1", scripts[2]: "ok"
    }  # fmt: skip
    assert "    skipped      Spark: missing" in lines
    assert "    shown" in lines
    assert "    ValueError: why" in lines
    assert "hidden" not in done.stdout
    assert smoke.output_of(scripts[0], tmp_path / "outputs/smoke").read_text() == "hidden ['--smoke'] __main__\n"
