"""Private parts of libraries: none is used, but for those that live in one module per library."""

import ast
import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from typing import Any

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

NEEDED = {
    "hydra-core": [
        ("hydra._internal.utils:_run_hydra", ("args", "args_parser", "task_function", "config_path", "config_name")),
        ("hydra._internal.utils:get_args_parser", ()),
        ("hydra._internal.hydra:ConfigLoaderImpl", ("config_search_path",)),
        (
            "hydra._internal.core_plugins.basic_sweeper:BasicSweeper.split_arguments",
            ("overrides", "max_batch_size"),
        ),
        (
            "hydra._internal.hydra:ConfigLoaderImpl.load_configuration",
            ("config_name", "overrides", "run_mode", "from_shell", "validate_sweep_overrides"),
        ),
    ],
    "mlflow": [
        (
            "mlflow.system_metrics.system_metrics_monitor:SystemMetricsMonitor",
            ("run_id", "sampling_interval", "resume_logging", "tracking_uri"),
        ),
        ("mlflow.system_metrics.system_metrics_monitor:SystemMetricsMonitor.start", ()),
        ("mlflow.system_metrics.system_metrics_monitor:SystemMetricsMonitor.finish", ()),
        (
            "mlflow.store.artifact.artifact_repository_registry:get_artifact_repository",
            ("artifact_uri", "tracking_uri"),
        ),
        ("mlflow.store.artifact.artifact_repo:ArtifactRepository.delete_artifacts", ("artifact_path",)),
    ],
    "optuna": [
        ("optuna.storages:RDBStorage.get_study_id_from_name", ("study_name",)),
        ("optuna.storages:RDBStorage.get_trial_id_from_study_id_trial_number", ("study_id", "trial_number")),
        ("optuna:Trial", ("study", "trial_id")),
    ],
    "prometheus-client": [
        ("prometheus_client.values:ValueClass", ()),
        ("prometheus_client.values:MultiProcessValue", ("process_identifier",)),
    ],
}
"""What those modules use, with the parameters they give it."""

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
        ("import torch\ntorch._C.x()", "torch._C"),
        ("from hydra._internal.utils import run", "hydra._internal.utils.run"),
        ("from segue.errors import _is_finite", "segue.errors._is_finite"),
        ("from mlflow.utils import validation", "mlflow.utils.validation"),
        ("def f(study):\n    return study._storage", "study._storage"),
        ("class A(B):\n    def f(self):\n        return self._run_id", "self._run_id"),
        ("from hydra import Store\nStore.__deepcopy__ = None", "Store.__deepcopy__"),
        ("getattr(trial, '_trial_id')", "getattr(trial, '_trial_id')"),
        ("class A:\n    def f(self):\n        self._x = 1\n        return self._x + other._x", None),
        ("import os\nos._exit(1)", None),
        ("config._target_", None),
    ],
)
def test_a_private_part_is_found(source: str, found: str | None) -> None:
    assert [text for _, text in private_parts(ast.parse(source))] == ([] if found is None else [found])


@pytest.mark.parametrize(
    ("library", "name", "parameters"),
    [(library, name, parameters) for library, needed in NEEDED.items() for name, parameters in needed],
    ids=lambda value: value.rpartition(".")[2] if isinstance(value, str) else "",
)
def test_a_library_still_has_what_it_does_not_promise(library: str, name: str, parameters: tuple[str, ...]) -> None:
    mend = f"; mend {PARTS[library]}, which says what it was tried on"
    module, _, attributes = name.partition(":")
    try:
        part: Any = import_module(module)
        for attribute in attributes.split("."):
            part = getattr(part, attribute)
    except (ImportError, AttributeError):
        pytest.fail(f"{library} {version(library)} no longer offers {name}{mend}")
    missing = set(parameters) - inspect.signature(part).parameters.keys()
    assert not missing, f"{name} of {library} {version(library)} no longer takes {', '.join(sorted(missing))}{mend}"
