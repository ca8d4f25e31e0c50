"""A folder whose format nobody has named is refused before anything is written into it."""

from pathlib import Path

import pytest

from segue.datamodules.source_choice import check_source_choice
from segue.errors import InputError


def test_a_folder_with_the_files_of_a_format_is_refused_with_that_format(ring_logs: Path) -> None:
    with pytest.raises(InputError, match=f"it has the files of botify: type datamodule=botify .*path={ring_logs} "):
        check_source_choice("simulated", [f"datamodule.path={ring_logs}"])


def test_settings_between_braces_choose_no_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"datamodule.path={tmp_path} does not say what the files are"):
        check_source_choice("simulated", [f"datamodule={{window: 2, path: {tmp_path}}}"])
    check_source_choice("simulated", ["datamodule={window: 2}"])


def test_any_other_folder_is_refused_with_all_formats(tmp_path: Path) -> None:
    path = f"'{tmp_path}/my data'"  # as a shell hands it to Hydra
    with pytest.raises(InputError, match=r"type datamodule=table datamodule.path='.*/my data' \("):
        check_source_choice("simulated", [f"datamodule.path={path}", "model=track"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("datamodule", "overrides"),
    [
        ("simulated", []),
        ("simulated", ["datamodule=simulated", "datamodule.path=logs"]),
        ("simulated", ["datamodule.window=2"]),
        ("botify", ["datamodule=botify", "datamodule.path=logs"]),
        ("botify", ["experiment=mine", "datamodule.path=logs"]),
    ],
)
def test_a_source_that_was_chosen_is_not_refused(datamodule: str, overrides: list[str]) -> None:
    check_source_choice(datamodule, overrides)
