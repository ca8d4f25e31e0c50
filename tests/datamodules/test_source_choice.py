"""A folder whose format nobody has named is refused before anything is written into it."""

from pathlib import Path
from typing import Any

import pytest

from segue.datamodules.source_choice import RecipeChoice, check_source_choice, refuse_open_recipe
from segue.errors import InputError
from tests.contracts.building import composed


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
    ],
)
def test_a_source_that_was_chosen_is_not_refused(datamodule: str, overrides: list[str]) -> None:
    check_source_choice(datamodule, overrides)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for tables that are composed once."""
    return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize(
    ("columns", "words", "choice"),
    [
        ("track,played_ratio", [], "table_auto"),
        ("track", ["context=session", "trainer.max_epochs=2", "seed=2"], "table_auto"),
        ("track", ["model=track"], "table_playlists"),
        ("track", ["hydra/sweeper=optuna"], "table_playlists"),
        ("track,played_ratio", ["loss=mse"], None),
        ("track,played_ratio,propensity", [], None),
        ("track,recommender", [], "table_playlists"),
    ],
)
def test_a_table_has_auto_where_nothing_says_otherwise(
    columns: str, words: list[str], choice: str | None, tables: Path
) -> None:
    table = tables / f"{columns}.csv"
    if not table.exists():
        row = ",".join(["1", "1600000000", "a", "0.5", "0.5"][: columns.count(",") + 3])
        table.write_text(f"user,time,{columns}\n{row}\n{row}\n")
    typed = ["datamodule=table", f"datamodule.path='{table}'", *words]
    found = RecipeChoice(compares=True)(typed, lambda some: composed(*some))
    assert found == ([] if choice is None else [f"datamodule={choice}"])
    if not words:
        assert "auto" not in " ".join(RecipeChoice()(typed, lambda some: composed(*some)))


def test_a_run_looks_at_its_data_once(tables: Path) -> None:
    table = tables / "once.csv"
    table.write_text("user,time,track\n1,1600000000,a\n1,1600000001,b\n")
    typed, asked = ["datamodule=table", f"datamodule.path='{table}'"], list[list[str]]()

    def compose(words: list[str]) -> Any:
        asked.append(words)
        return composed(*words)

    choose = RecipeChoice(compares=True)
    for words, choice in (([], "auto"), (["model=rules"], "playlists"), (["model=popular", "seed=2"], "playlists")):
        assert choose([*typed, *words], compose) == [f"datamodule=table_{choice}"]
    assert asked == [typed]
    assert choose([*typed, "datamodule.columns.track=nowhere"], compose) == []


def test_shards_need_a_recipe() -> None:
    refuse_open_recipe("playlists")
    with pytest.raises(InputError, match=r"recipe=auto is a choice of train\.py, which trains; name a recipe"):
        refuse_open_recipe("auto")
