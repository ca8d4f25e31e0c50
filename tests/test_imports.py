"""Who may import whom: the rooms of docs/architecture.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

EVERYWHERE = {"errors", "catalog", "records", "catalog_files", "recommender_names", "cores", "compressed"}
MAY_IMPORT = {
    "errors": set[str](),
    "records": set[str](),
    "catalog": set[str](),
    "catalog_files": set[str](),
    "recommender_names": set[str](),
    "cores": set[str](),
    "compressed": set[str](),
    "recommendations": set[str](),
    "assignment": set[str](),
    "simulation": {"recommendations", "assignment"},
    "serving": {"recommendations", "assignment"},
    "tracking": set[str](),
    "provenance": set[str](),
    "run_folder": {"provenance"},
    "run_logger": {"console", "tracking"},
    "mlflow_model": set[str](),  # MLflow runs it where nothing else of Segue is
    "resume": {"run_folder", "tracking"},
    "console": {"search", "resume"},  # which look at the command line before Hydra does
    "tables": {"console"},
    "compared_runs": {"evaluation", "run_folder", "tracking"},
    "sweep": {"console", "tracking", "provenance"},
    "search": {"sweep", "console", "tracking", "evaluation"},
    "datamodules": {"recommendations"},
    "models": {"recommendations"},
    "evaluation": set[str](),
    "callbacks": {
        *("models", "datamodules", "evaluation", "recommendations", "search"),
        *("tracking", "console", "run_logger", "run_folder", "provenance"),
    },
}
FOREIGN = {
    "catalog": {"torch", "mlflow", "pytorch_lightning"},
    "recommendations": {"torch", "mlflow", "pytorch_lightning"},
    "assignment": {"torch", "mlflow", "pytorch_lightning", "pandas"},
    "simulation": {"torch", "mlflow", "pytorch_lightning", "hydra", "omegaconf"},
    "serving": {"torch", "mlflow", "pytorch_lightning", "hydra", "omegaconf", "pandas"},
    "evaluation": {"torch", "mlflow", "pytorch_lightning"},
    "console": {"torch", "mlflow", "pytorch_lightning"},
}
"""What a room must not bring in, because who uses it does not have it or cannot wait for it."""

FILES = sorted((ROOT / "src").rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(path: Path) -> str:
    return path.relative_to(ROOT / "src").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", [f for f in FILES if f.name != "__init__.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_the_rooms_it_may(path: Path) -> None:
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("src.")}
    assert ours <= MAY_IMPORT[room(path)] | EVERYWHERE | {room(path)}
    foreign = {name.split(".")[0] for name in imported(path)}
    assert not foreign & FOREIGN.get(room(path), set())


def test_nothing_imports_a_verb() -> None:
    verbs = {path.stem for path in ROOT.glob("*.py")}
    assert verbs
    for path in FILES:
        assert not {name.split(".")[0] for name in imported(path)} & verbs


def test_a_service_carries_nothing_that_only_training_needs() -> None:
    program = "import src.serving.app, src.serving.server, src.serving.redis_store, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in done.stdout.split()} & FOREIGN["serving"]


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("*.py")))
def test_help_waits_for_no_heavy_library(name: str) -> None:
    program = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('\\nmodules', *sys.modules))\n"
        f"sys.argv = ['{name}', '--help']\n"
        f"runpy.run_path('{name}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    text, modules = done.stdout.split("\nmodules ")
    assert "What can be set" in text
    heavy = {"torch", "mlflow", "pytorch_lightning", "pandas", "numpy", "scipy", "duckdb", "pyarrow", "optuna"}
    assert not {module.split(".")[0] for module in modules.split()} & heavy
