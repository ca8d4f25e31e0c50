"""Which errors are the user's to mend, and read as one line; all others keep their traceback."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from segue.errors import InputError
from segue.verbs.terminal.messages import is_interrupt, message
from tests.contracts.building import composed
from tests.runs.test_resume import started


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the command line of a verb that was started in `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def type_words(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["train.py", *words])

    type_words()
    return type_words


def error_of(number: int, path: Path | str | None) -> OSError:
    return OSError(number, os.strerror(number)) if path is None else OSError(number, os.strerror(number), str(path))


def test_what_the_user_gave_is_one_line() -> None:
    assert message(InputError("alpha must lie in [0, 1],\n got 2")) == "alpha must lie in [0, 1], got 2"


def test_a_value_that_has_to_be_given_is_named() -> None:
    with pytest.raises(MissingMandatoryValue) as error:
        _ = OmegaConf.create({"datamodule": {"path": "???"}}).datamodule.path
    assert (
        message(error.value) == "datamodule.path has no value, and there is no usual one; give datamodule.path=<value>"
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("path", [None, "/anywhere/file"])
def test_a_disk_that_takes_nothing_is_the_users(typed: Callable[..., None], number: int, path: str | None) -> None:
    typed()
    line = message(error_of(number, path))
    assert line is not None
    space = "make space there, then type the command again; or " if number in (errno.ENOSPC, errno.EDQUOT) else ""
    folder = "choose another folder with hydra.run.dir=<folder>"
    assert line == f"cannot use {path or 'this disk'}: {os.strerror(number)}; {space}{folder}"


def test_a_run_that_a_full_disk_has_stopped_is_resumed(typed: Callable[..., None], tmp_path: Path) -> None:
    typed()
    run = started(tmp_path / "run")
    line = message(error_of(errno.ENOSPC, run / "checkpoints" / "last.ckpt"))
    assert line is not None
    assert f"No space left on device; make space there, then resume={run} continues the run; or choose" in line


@pytest.mark.parametrize(
    ("words", "number", "path"),
    [
        (["hydra.run.dir=/dev/null/run"], errno.ENOTDIR, "/dev/null/run"),
        (["hydra.run.dir=run"], errno.EEXIST, "run"),
        (["-m", "hydra.sweep.dir='my sweep'"], errno.ENOENT, "my sweep/0/config.yaml"),
        ([], errno.EEXIST, "outputs/train/now"),
        ([], errno.ENOENT, "outputs/train/now/plots/artists.png"),  # the folder was removed meanwhile
        (["store.folder=/proc/nowhere"], errno.ENOENT, "/proc/nowhere"),
        (["datamodule.path=data"], errno.ENOENT, "data/tracks.json"),
        (["+datamodule.path='data'"], errno.EISDIR, "data/tracks.json"),
    ],
)
def test_a_path_that_the_user_chose_is_theirs_to_mend(
    typed: Callable[..., None], words: list[str], number: int, path: str
) -> None:
    typed(*words)
    line = message(error_of(number, path))
    assert line is not None
    assert line.startswith(f"cannot use {path}: ")


@pytest.mark.parametrize(
    ("words", "number", "path"),
    [
        ([], errno.ENOENT, "/usr/lib/a_library/its.json"),
        (["model=convex"], errno.ENOENT, "conf/model.yaml"),
        (["seed=1", "logger="], errno.ENOTDIR, "src/errors.py/x"),
        ([], errno.ENOENT, None),
        (["hydra.run.dir=run"], errno.ENOENT, "run/metrics.json"),  # ours to write, since its folder is there
        (["hydra.run.dir=run"], errno.EIO, "run/metrics.json"),
    ],
)
def test_a_file_that_is_missing_through_a_bug_keeps_its_traceback(
    typed: Callable[..., None], words: list[str], number: int, path: str | None
) -> None:
    typed(*words)
    Path("run").mkdir()
    assert message(error_of(number, path)) is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["recipe=playlist"],
            "there is no recipe=playlist; did you mean playlists? choose one of auto, counting, mixture, playlists, "
            "published, radio, shares",
        ),
        (["+model.alpha=1"], "model.alpha=1: the config has model.alpha already; leave out the +"),
        (
            ["datamodule=yes", "datamodule.attributes={year: number}"],
            "datamodule.attributes={year: number}: datamodule.attributes has tags, and no year; write "
            "++datamodule.attributes=… to add it",
        ),
        (["epochs=2"], "epochs=2: the config has no epochs; did you mean trainer.max_epochs=2?"),
        (["model.alhpa=0.3"], "model.alhpa=0.3: model has no alhpa; did you mean model.alpha?"),
        (["model=popular", "model.alpha=1"], "model.alpha=1: model=popular has no alpha; it has artist_weight, days"),
        (["model=rules", "loss=bce"], "loss=bce cannot be chosen with model=rules, which has no loss; leave it out"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_words_that_the_config_has_no_place_for_are_named(
    typed: Callable[..., None], words: list[str], line: str
) -> None:
    typed(*words)
    with pytest.raises(ConfigCompositionException) as error:
        composed(*words)
    assert message(error.value) == line


@pytest.mark.parametrize("word", ["seed", "seed=[1", "run_name=a=b", "datamodule.path=logs (1)"])
def test_a_word_that_cannot_be_read_is_named_without_the_grammar(word: str) -> None:
    with pytest.raises(OverrideParseException) as raised:
        composed(word)
    line = message(raised.value)
    assert line is not None
    assert line.startswith(f"cannot read {word}; write name=value without spaces")


def test_other_errors_are_bugs() -> None:
    assert message(KeyError("x")) is None
    assert message(ValueError("x")) is None


@pytest.mark.parametrize(
    ("stopped", "expected"),
    [(KeyboardInterrupt(), True), (RuntimeError("Query interrupted"), True), (RuntimeError("a bug"), False)],
)
def test_ctrl_c_is_known_in_every_form(stopped: BaseException, expected: bool) -> None:
    assert is_interrupt(stopped) == expected
