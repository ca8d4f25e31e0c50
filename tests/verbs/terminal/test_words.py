from pathlib import Path

import pytest

from segue.datamodules.source_choice import option_of
from segue.errors import InputError
from segue.verbs.terminal.words import as_plain_text, commands_of, refuse_path_alone, refuse_placeholders, renamed


def test_the_experiment_of_a_log_is_no_file_of_conf() -> None:
    words = renamed(["experiment=A", "my.experiment=B", "a.b=1"], {"experiment=": "experiment_name=", "a.": "c.d."})
    assert words == ["experiment_name=A", "my.experiment=B", "c.d.b=1"]


def test_a_command_is_a_value() -> None:
    words = ["load", "recommendations=load", "-m"]
    assert commands_of(words, "do", ("load", "rollback")) == ["do=load", "recommendations=load", "-m"]


def test_what_has_signs_of_hydras_language_is_quoted_once() -> None:
    assert as_plain_text(["filter=params.seed = '1'", "x=a = b"], "filter") == [
        "filter=\"params.seed = '1'\"",
        "x=a = b",
    ]
    assert as_plain_text(["filter='a = 1'"], "filter") == ["filter='a = 1'"]
    assert as_plain_text(['filter=a = "\\"'], "filter") == ['filter="a = \\"\\\\\\""']


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["laod", "pick=ranked"], "'laod' is not a command; the commands are load, rollback; did you mean load"),
        (["pick=ranked", "roll-back"], "'roll-back' is not a command; .*; did you mean rollback"),
        (["frobnicate"], "'frobnicate' is not a command; the commands are load, rollback$"),
    ],
)
def test_a_bare_word_that_is_not_a_command_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        commands_of(words, "do", ("load", "rollback"))


def test_the_value_of_an_option_is_not_a_command() -> None:
    words = ["--cfg", "job", "-p", "store", "+x=1", "~y", "a.b=laod"]
    assert commands_of(words, "do", ("load",)) == words


@pytest.mark.parametrize("word", ["datamodule.path=<folder>", "recommendations=run:<MLflow run id>", "resume=<run>/x"])
def test_a_placeholder_of_the_documentation_is_refused(word: str) -> None:
    with pytest.raises(InputError, match=r"^\S+=.*: <.*> is a placeholder; put a value of yours in its place$"):
        refuse_placeholders(["model=track", word])


def test_a_filter_may_compare() -> None:
    refuse_placeholders(["filter=metrics.a <b and metrics.c> 1", "a=1 < 2", "model=track"])


TABLE = "did you mean datamodule=table datamodule.path="


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["file.csv"], f"file.csv: an option is name=value; {TABLE}file.csv?"),
        (["model=track", "old/plays.csv.gz"], f"old/plays.csv.gz: an option is name=value; {TABLE}old/plays.csv.gz?"),
        (["data=plays.csv"], f"data=plays.csv: there is no option data; {TABLE}plays.csv?"),
        (["file=my plays.csv"], f"file=my plays.csv: there is no option file; {TABLE}'\"my plays.csv\"'?"),
        (["source=yes"], "source=yes: there is no option source; did you mean datamodule=yes?"),
        (["datamodule=a.csv"], f"datamodule=a.csv: datamodule= takes the name of a source; {TABLE}a.csv?"),
        (["service"], "service: an option is name=value; did you mean datamodule=botify datamodule.path=service?"),
    ],
)
def test_a_path_without_its_option_is_refused_with_the_option(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("plays", "service/tracks.json", "service/logs/data.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError) as raised:
        refuse_path_alone(words, option_of)
    assert str(raised.value) == message


def test_words_that_are_no_path_alone_are_left_to_hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my plays.csv").touch()
    (tmp_path / "shards").mkdir()
    refuse_path_alone(["datamodule=shards", "datamodule.path=shards"], str)
    refuse_path_alone(["--config-dir", "a.d", "~callbacks.plots", "datamodule.path=a.csv", "arms={C:", "a.jsonl}"], str)
    refuse_path_alone(
        ["datamodule={path: a.csv}", "datamodule=yes", "seed=0.5", "datamodule.path=my", "plays.csv"], str
    )
