"""The rooms of docs/architecture.md: who may import whom. Imports inside functions and for types alone count too."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

NOUNS = {"errors", "settings", "attributes", "catalog", "histories", "assignment", "atomic"}
"""The modules that lie in `src/` itself."""
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "settings": {"errors"},
    "attributes": set(),
    "catalog": {"errors", "attributes"},
    "histories": set(),
    "assignment": {"errors"},
    "atomic": set(),
    "statistics": set(),
    "reports": NOUNS | {"statistics"},
    "runs": NOUNS | {"reports"},
    "picking": NOUNS | {"runs"},
    "models": NOUNS | {"statistics", "runs", "picking"},
    "simulation": NOUNS | {"statistics", "runs", "picking"},
    "datamodules": NOUNS | {"statistics", "runs", "models", "reports"},
    "verdicts": NOUNS | {"statistics", "runs", "picking", "reports", "datamodules"},
    "serving": NOUNS | {"statistics", "runs", "picking", "verdicts"},
    "callbacks": NOUNS | {"statistics", "runs", "models", "simulation", "reports", "datamodules"},
    "__main__": {"errors", "runs", "verbs"},
    "verbs": NOUNS
    | {"runs", "picking", "models", "simulation", "serving", "reports", "datamodules", "verdicts", "callbacks"},
}
OF_MODELS_FOR_DATA = {"segue.models.contracts", "segue.models.retrieval.ranks"}
"""All that `datamodules` may import of `models`: what a batch is, and ranks, for the floors."""
HEAVY = {"torch", "mlflow", "pytorch_lightning"}
FOREIGN = {
    "catalog": HEAVY,
    "histories": HEAVY | {"pandas"},
    "assignment": HEAVY | {"pandas"},
    "runs": HEAVY,
    "picking": HEAVY | {"hydra", "omegaconf", "pandas"},
    "statistics": HEAVY,
    "runs/tracking": set(),
    "verbs/terminal": HEAVY,
    "reports": HEAVY,
    "verdicts": HEAVY,
    "verdicts/comparison": {"torch", "pytorch_lightning"},
    "datamodules/describing": HEAVY,
    "simulation": HEAVY | {"hydra", "omegaconf"},
    "serving": HEAVY | {"hydra", "omegaconf", "pandas"},
    "serving/room": HEAVY | {"hydra", "pandas"},
}
"""What a room, or a folder of it, must not bring in, because who uses it does not have it or cannot wait for it."""

FILES = sorted((ROOT / "src").rglob("*.py"))
assert FILES[0] == ROOT / "src" / "__init__.py"  # of no room
MODULES = {
    ".".join(("segue", *path.relative_to(ROOT / "src").with_suffix("").parts)).removesuffix(".__init__"): path
    for path in FILES
}
ROOMS = sorted(path.parent for path in FILES if path.name == "__init__.py" and path.parent != ROOT / "src")


def names_in(node: ast.AST) -> set[str]:
    """What a statement imports."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"relative import: {ast.unparse(node)}"
        return {f"{node.module}.{alias.name}" for alias in node.names}
    return set()


@cache
def syntax_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported(path: Path) -> set[str]:
    return set().union(*map(names_in, ast.walk(syntax_of(path))))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "src").parts[0].removesuffix(".py")


def modules_of(path: Path) -> set[str]:
    """Modules of ours that a file imports."""
    ours = [name for name in imported(path) if name.split(".")[0] == "segue"]
    return {name if name in MODULES else name.rpartition(".")[0] for name in ours} - {"segue"}  # its version


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """One that the arrows of a graph make; none where they make none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_a_room_imports_only_the_rooms_it_may() -> None:
    wrong = {}
    for path in FILES[1:]:
        ours = {name.split(".")[1] for name in imported(path) if name.split(".")[0] == "segue"}
        foreign = {name.split(".")[0] for name in imported(path)}
        folder = path.parent.relative_to(ROOT / "src").as_posix()
        refused = foreign & FOREIGN.get(folder, FOREIGN.get(room_of(path), set()))
        wrong[str(path)] = (ours - MAY_IMPORT[room_of(path)] - {room_of(path)}) | refused
    assert {path: names for path, names in wrong.items() if names} == {}


def test_the_data_know_little_of_models() -> None:
    for path in FILES:
        if room_of(path) == "datamodules":
            assert {module for module in modules_of(path) if module.startswith("segue.models.")} <= OF_MODELS_FOR_DATA


def test_what_mlflow_runs_by_itself_needs_nothing_of_ours() -> None:
    assert modules_of(ROOT / "src/runs/tracking/model.py") == set()


def test_the_law_allows_only_what_is_used() -> None:
    used: dict[str, set[str]] = {}
    for path in FILES:
        if path.parent != ROOT / "src" or path.name != "__init__.py":
            ours = {name.split(".")[1] for name in imported(path) if name.split(".")[0] == "segue"}
            used.setdefault(room_of(path), set()).update(ours - {room_of(path)})
    assert {room: sorted(allowed - NOUNS - used[room]) for room, allowed in MAY_IMPORT.items()} == {
        room: [] for room in MAY_IMPORT
    }


def test_rooms_import_each_other_in_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES[1:]:
        room = room_of(path)
        graph.setdefault(room, set()).update({name.split(".")[1] for name in modules_of(path)} - {room})
    assert circle(graph) == []
    assert circle(MAY_IMPORT) == []  # and none that the law would allow


def test_modules_import_each_other_in_no_circle() -> None:
    assert circle({module: modules_of(path) for module, path in MODULES.items()}) == []


def test_a_circle_is_found() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def test_few_modules_lie_in_no_room() -> None:
    assert {path.stem for path in (ROOT / "src").glob("*.py")} - {"__init__", "__main__"} == NOUNS


def test_few_arrows_lie_between_folders_and_no_folder_imports_many() -> None:
    """The whole can be drawn, and a folder can be read with few others open. `verbs` lies above all."""
    folders = {path.relative_to(ROOT / "src").parts[0] for path in ROOMS}
    arrows = {
        (room_of(path), module.split(".")[1]) for path in FILES[1:] for module in modules_of(path) if "." in module
    }
    others = {folder: {to for start, to in arrows if start == folder} - {folder} for folder in folders}
    assert sum(len(to & folders) for folder, to in others.items() if folder != "verbs") <= 32
    assert {folder: sorted(to) for folder, to in others.items() if len(to & folders) > 6 and folder != "verbs"} == {}


def test_the_name_of_a_file_has_one_meaning() -> None:
    """Those that several rooms have mean the same in each."""
    names = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert {name for name, number in names.items() if number > 1} <= {
        "analysis.py",
        "picture.py",
        "report.py",
        "settings.py",
    }


def test_checks_by_hand_and_uses_of_the_command_line_are_few() -> None:
    """A value of the config is checked where its setting is described, see `src/settings.py`."""
    checks, uses = 0, 0
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            uses += isinstance(node, ast.Attribute) and node.attr == "argv"
            checks += isinstance(node, ast.Call) and ast.unparse(node.func).startswith("check_")
    assert checks < 60
    assert uses <= 2


@pytest.mark.parametrize("room", ROOMS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_says_in_one_sentence_what_it_is_for(room: Path) -> None:
    tree = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    says = ast.get_docstring(tree)
    assert says is not None
    assert says.endswith(".")
    assert not re.search(r"[.!?]\s", says), says


def test_every_folder_of_modules_is_a_room() -> None:
    assert {path.parent for path in FILES} <= {*ROOMS, ROOT / "src"}


def test_what_the_type_checker_is_told_to_overlook_is_little_and_has_a_reason() -> None:
    overlooked = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if "# type: ignore" in line
    ]
    assert [line for line in overlooked if not re.search(r"# type: ignore\[[a-z, -]+\]  (# )?\w+", line)] == []
    assert len(overlooked) <= 6, overlooked


VERBS = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.glob("*.py")}
"""The files of the root."""


def module_of(verb: str) -> str:
    """Where the verb is that a file of the root calls."""
    return next(str(node.module) for node in VERBS[verb].body if isinstance(node, ast.ImportFrom))


def test_nothing_but_the_python_interface_imports_a_verb() -> None:
    verbs = {module_of(verb) for verb in VERBS}
    for path in FILES:
        assert room_of(path) == "verbs" or not modules_of(path) & verbs


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_of_the_root_only_calls_its_verb(verb: str) -> None:
    module = module_of(verb)
    says = ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    calls = f"from {module} import {verb}\nif __name__ == '__main__':\n    {verb}()"
    assert ast.get_docstring(VERBS[verb]) == says
    assert [ast.unparse(part) for part in VERBS[verb].body[1:]] == [ast.unparse(part) for part in ast.parse(calls).body]


OLD = ("import " + "src", "from " + "src", "_target_: " + "src.")
"""What was written when the package had the name of its folder. A class with two names would be two classes."""
PLACES = ("*.*", "conf/**/*.*", "docs/**/*.*", "examples/**/*.*", "experiments/**/*.*", "src/**/*.*", "tests/**/*.*")
TEXTS = {".py", ".yaml", ".md", ".toml", ".ipynb", ".csv", ".json", ".js", ".sql", ".lua", ".html"}


def test_the_package_has_one_name() -> None:
    files = {path for place in PLACES for path in ROOT.glob(place) if path.suffix in TEXTS}
    assert len(files) > len(FILES)
    wrong = [path for path in files if any(re.search(rf"\b{re.escape(old)}\b", path.read_text()) for old in OLD)]
    assert not wrong


def test_a_service_carries_nothing_that_only_training_needs() -> None:
    program = (
        "import segue.serving.app, segue.serving.server, sys\n"
        "assert 'redis' not in sys.modules, 'only a service with Redis waits for its client'\n"
        "import segue.serving.redis_store; print(*sys.modules)"
    )
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
