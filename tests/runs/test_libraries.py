"""A library that is not installed: which extra has it, and what a verb prints."""

import ast
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException, InstantiationException
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from segue.runs import libraries
from segue.runs.libraries import LIBRARIES, line_of_import
from segue.verbs.terminal.messages import message
from tests.conftest import ROOT
from tests.contracts.building import composed
from tests.test_imports import FILES, imported, names_in

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OF_TOOLS = {"all", "bench", "container", "dev", "mutants"}
"""Extras whose libraries `src/` does not import."""
BROUGHT = {"joblib", "lightning_fabric", "onnx", "pydantic_core", "requests", "sqlalchemy", "starlette"}
BROUGHT |= {"threadpoolctl", "yarl"}
"""Libraries that come with one of the table, which is imported before."""
OPTIONAL = {"setuptools_scm"}
"""Libraries that a clone does without."""
WHERE = {"serve": "serving/", "room": "serving/room/", "sweep": "verbs/sweeps/pruning.py"}
"""Where the libraries of an extra are imported with the module; elsewhere they are imported in functions."""


distributions = cache(packages_distributions)  # it reads the records of all packages


def installed_by(extra: str) -> set[NormalizedName]:
    needs = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    return {canonicalize_name(need) for need in (Requirement(text).name for text in needs) if need != "segue"}


@pytest.mark.parametrize("extra", sorted({"", *PROJECT["optional-dependencies"]} - OF_TOOLS))
def test_the_table_says_what_an_extra_installs(extra: str) -> None:
    names = distributions()  # several where a package is in parts; none for an extra that is not installed
    known = [{canonicalize_name(name) for name in names.get(library, [library])} for library in LIBRARIES[extra]]
    installed = installed_by(extra)
    assert [one for one in known if not one & installed] == []
    assert installed - set().union(*known) == set()


def first_names(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@cache
def imported_at_once(path: Path) -> set[str]:
    """What a module imports as soon as it is imported itself."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    return set().union(*(names_in(node) for node in module.body if isinstance(node, ast.Import | ast.ImportFrom)))


def test_every_library_that_is_imported_is_in_the_table() -> None:
    known = {*sys.stdlib_module_names, "segue", *BROUGHT, *OPTIONAL}.union(*LIBRARIES.values())
    assert first_names(set().union(*map(imported, FILES))) - known == set()


def test_what_only_an_extra_installs_is_imported_where_it_is_used() -> None:
    for extra in LIBRARIES.keys() - {""}:
        elsewhere = [
            path for path in FILES if not str(path.relative_to(ROOT / "src")).startswith(WHERE.get(extra, "none"))
        ]
        found = {path for path in elsewhere if first_names(imported_at_once(path)) & set(LIBRARIES[extra])}
        assert found == set()


@pytest.mark.parametrize(
    ("library", "installed", "cloned"),
    [
        ("uvloop", 'pip install "segue[serve]"', 'pip install -e ".[serve]"'),
        ("torch", "pip install segue", "make setup"),
    ],
)
def test_the_line_has_the_command_that_installs_the_library(
    library: str, installed: str, cloned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for clone, command in ((None, installed), (ROOT, cloned)):
        monkeypatch.setattr(libraries, "CLONE", clone)
        line = f"{library} is not installed; install it with: {command}"
        assert message(ModuleNotFoundError(name=f"{library}.part")) == line


def test_the_line_is_found_below_other_errors_and_for_our_libraries_alone() -> None:
    outer = InstantiationException("Error locating target")
    outer.__cause__ = ImportError("Error loading")
    assert line_of_import(outer) is None
    outer.__cause__.__cause__ = ModuleNotFoundError(name="optuna")
    assert str(message(outer)).startswith("optuna is not installed; ")
    assert message(ModuleNotFoundError(name="a_module_of_ones_own")) is None


def test_a_launcher_that_is_not_installed_is_named() -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed("hydra/launcher=ray_of_light")
    assert str(message(error.value)).startswith("hydra_ray_launcher is not installed; ")
    with pytest.raises(ConfigCompositionException) as error:
        composed("hydra/launcher=rocket")
    assert str(message(error.value)).startswith("there is no hydra/launcher=rocket; ")
