"""Private parts of libraries: none is used, but for those that live in one module per library."""

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from tests.test_imports import syntax_of

PARTS = {
    "hydra-core": "src/verbs/terminal/hydra_parts.py",
    "mlflow": "src/runs/tracking/mlflow_parts.py",
    "optuna": "src/verbs/sweeps/pruning.py",
    "prometheus-client": "src/serving/prometheus_metrics.py",
}
"""The one module where what a library keeps to itself may be used."""

UNDOCUMENTED = {
    "mlflow.store",
    "mlflow.system_metrics",
    "mlflow.utils",
    "get_study_id_from_name",
    "get_trial_id_from_study_id_trial_number",
    "class_name_to_class",
}
"""Modules and attributes that a library keeps to itself although their names do not say so."""


PROMISED = {"_exit", "_replace", "_asdict", "_make", "_fields"}
"""Names of Python's own that begin with an underscore and are documented."""

FILES = sorted({*(ROOT / "src").rglob("*.py"), *ROOT.glob("*.py")})


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_") and name not in PROMISED


def is_undocumented(module: str) -> bool:
    parts = module.split(".")
    return any(is_private(part) for part in parts) or any(
        ".".join(parts[:length]) in UNDOCUMENTED for length in range(1, len(parts) + 1)
    )


def defined(tree: ast.Module) -> set[str]:
    """Private names of the file itself: what it assigns, and its functions, classes, methods and attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            names.add(node.attr)
    return names


def private_parts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each name in a file that belongs to somebody else and that nobody has promised."""
    own = defined(tree)
    foreign = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).partition(".")[0] not in {"segue", *sys.stdlib_module_names}
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            patched = isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id in foreign
            if (is_private(node.attr) and node.attr not in own) or node.attr in UNDOCUMENTED or patched:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if is_undocumented(f"{node.module}.{alias.name}"):
                    yield node.lineno, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if is_undocumented(alias.name):
                    yield node.lineno, alias.name
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)) and name.value not in own:
                yield node.lineno, ast.unparse(node)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def test_private_parts_are_used_in_the_module_of_their_library_alone() -> None:
    files = {str(path.relative_to(ROOT)): path for path in FILES}
    others = [where for where in files if where not in PARTS.values()]
    found = [f"{where}:{line}: {text}" for where in others for line, text in private_parts(syntax_of(files[where]))]
    remedy = f"use what the library documents, or move this to {', '.join(PARTS.values())}"
    assert not found, "\n".join([*found, remedy])


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from hydra._internal.utils import run", "hydra._internal.utils.run"),
        ("from segue.errors import _is_finite", "segue.errors._is_finite"),
        ("from mlflow.utils import validation", "mlflow.utils.validation"),
        ("class A(B):\n    def f(self):\n        return self._run_id", "self._run_id"),
        ("from hydra import Store\nStore.__deepcopy__ = None", "Store.__deepcopy__"),
        ("getattr(trial, '_trial_id')", "getattr(trial, '_trial_id')"),
        ("class A:\n    def f(self):\n        self._x = 1\n        return self._x + other._x", None),
        ("config._target_", None),
    ],
)
def test_a_private_part_is_found(source: str, found: str | None) -> None:
    assert [text for _, text in private_parts(ast.parse(source))] == ([] if found is None else [found])
