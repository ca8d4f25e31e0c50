"""Nothing in `src/` asks for the class of a head, a loss, a baseline or a reader: contracts are enough."""

import ast
from pathlib import Path

from tests.conftest import ROOT

OURS = ("models/heads.py", "models/losses.py", "models/pair_ranker.py", "models/row_adam.py", "models/baselines/*.py")
CONTRACTS = {"Scorer", "Loss", "Ranker", "Reader", "Counter", "SessionCounter"}


def classes(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)}


def asked_for(path: Path) -> set[str]:
    """Names of all classes that a file asks for with `isinstance` or `issubclass`, or in a `match`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("isinstance", "issubclass"):
                found |= {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.MatchClass):
            found |= {name.id for name in ast.walk(node.cls) if isinstance(name, ast.Name)}
    return found


def test_nothing_asks_for_the_class_of_what_keeps_a_contract() -> None:
    ours = {name for pattern in OURS for path in (ROOT / "src").glob(pattern) for name in classes(path)} - CONTRACTS
    assert {"CosineMix", "SoftmaxLoss", "Baseline", "PairRanker", "Popular", "RowAdam"} <= ours
    asking = {str(path.relative_to(ROOT)): asked_for(path) & ours for path in (ROOT / "src").rglob("*.py")}
    assert {path: names for path, names in asking.items() if names} == {}
