"""Python values as words of the command line."""

import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from segue import InputError
from segue.verbs.api.calling import Folder, value_of, words_of
from tests.conftest import ROOT

TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex(r"k[a-z0-9_-]{0,5}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=6,
)


def parsed(word: str) -> Any:
    return OverridesParser.create().parse_override(word).value()


def plain(value: Any) -> Any:
    """Without the kinds of quotes."""
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return getattr(value, "text", value)


@given(VALUES)
def test_hydra_reads_the_value_that_was_given(value: object) -> None:
    assert plain(parsed(f"key={value_of(value)}")) == value


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.array([1, 2]), [1, 2]),
        ((1, "two"), [1, "two"]),
        (Path("a folder/plays.csv"), "a folder/plays.csv"),
    ],
)
def test_numpy_tuples_and_paths_are_values(value: object, read: object) -> None:
    assert plain(parsed(f"key={value_of(value)}")) == read


def test_infinity_and_nan_are_numbers() -> None:
    assert parsed(f"key={value_of(math.inf)}") == math.inf
    assert math.isnan(parsed(f"key={value_of(math.nan)}"))


def test_two_underscores_are_a_dot() -> None:
    assert words_of({"model__alpha": 0.9, "trainer.max_epochs": 2}) == ["model.alpha=0.9", "trainer.max_epochs=2"]


def test_an_object_is_no_option() -> None:
    with pytest.raises(InputError, match="cannot be an option; give a number"):
        value_of(object())


def test_a_key_may_have_spaces_and_no_other_signs() -> None:
    assert plain(parsed(f"key={value_of({'my new model': 1})}")) == {"my new model": 1}
    with pytest.raises(InputError, match="'α' cannot be a name here; use letters"):
        value_of({"α": 1})


def test_a_folder_is_found_where_the_group_is_inherited_and_where_nothing_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o2755)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for locks in ("segue.verbs.api.calling.fcntl.flock", "segue.verbs.api.calling.fcntl"):
        first, second = Folder(content="x"), Folder(content="x")
        assert [first.path.name, second.path.name] == ["segue-x", "segue-x-2"]
        del first, second
        assert not [*tmp_path.iterdir()]

        def unsupported(*_: object) -> None:
            raise OSError("not supported")

        monkeypatch.setattr(locks, None if locks.endswith("fcntl") else unsupported)
    assert Folder(content="x").path.name == "segue-x"


KILLED = """
import os, signal, sys
from segue.verbs.api.calling import Folder
folders = Folder(content="x"), Folder(content="x")
print(*(one.path.name for one in folders), flush=True)
(folders[0].path / "file").touch()
if sys.argv[1:]:
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_folder_of_a_process_that_was_killed_is_used_again(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    for word, left in (["killed"], ["segue-x", "segue-x-2"]), ([], []):
        done = subprocess.run([sys.executable, "-c", KILLED, *word], cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.stdout.split() == ["segue-x", "segue-x-2"], done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == left
