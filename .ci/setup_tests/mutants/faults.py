"""Which faults there are: those of cosmic-ray, and two of our own.

Messages, docstrings, decorators and annotations have none: a test of the exact text of a message proves little.
"""

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).resolve().parents[3]

_REPLACED = {
    "BinaryOperator": "Add_Sub Sub_Add Mul_Div Div_Mul Pow_Mul FloorDiv_Mul Mod_Mul BitAnd_BitOr BitOr_BitAnd",
    "ComparisonOperator": (
        "Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is"
    ),
    "UnaryOperator": "Delete_USub Delete_Invert Delete_Not",
}
"""What is replaced by what. cosmic-ray replaces by everything else too, but most of that fails at once."""

_OTHERS = (
    "AddNot ReplaceTrueWithFalse ReplaceFalseWithTrue ReplaceAndWithOr ReplaceOrWithAnd ReplaceBreakWithContinue "
    "ReplaceContinueWithBreak NumberReplacer ZeroIterationForLoop"
)

_CONVERSIONS = (
    "float int bool str list tuple dict set len range zip enumerate isinstance super iter next asarray astype to "
    "double long contiguous copy items keys values"
)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A file with one fault.

    Args:
        file: the file, from the root of the repository.
        operator: what is changed.
        occurrence: which of the places in the file.
    """

    file: str
    operator: str
    occurrence: int

    def source(self) -> str:
        """The text of the file with the fault."""
        return _source(self)

    def diff(self) -> tuple[str, str]:
        """The lines that are changed, without indentation: before and after."""
        lines = list(difflib.unified_diff(read(self.file).splitlines(), self.source().splitlines(), n=0))[2:]
        before, after = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
        return before, after


@cache
def _source(mutant: Mutant) -> str:
    return str(mutate_code(read(mutant.file), _operators()[mutant.operator], mutant.occurrence))


@cache
def read(file: str) -> str:
    """The text of a file, from the root of the repository."""
    return (ROOT / file).read_text(encoding="utf-8")


@cache
def find_mutants(file: str) -> list[Mutant]:
    """All mutants of a file."""
    excluded, nodes = list(_excluded(read(file))), list(ast_nodes(get_ast(read(file))))
    mutants = []
    for name, operator in _operators().items():
        positions = [(node, start) for node in nodes for start, _ in operator.mutation_positions(node)]
        mutants += [
            Mutant(file=file, operator=name, occurrence=number)
            for number, (node, start) in enumerate(positions)
            if not any(first <= start < last for first, last in excluded)
            and getattr(node.parent, "type", "") != "parameters"  # the star before arguments that have names
        ]
    return mutants


@cache
def _operators() -> dict[str, Any]:
    names = [f"Replace{kind}_{pair}" for kind, pairs in _REPLACED.items() for pair in pairs.split()]
    return {
        **{name: get_operator(f"core/{name}")() for name in (*names, *_OTHERS.split())},
        "RemoveCall": RemoveCall(),
        "RemoveStatement": RemoveStatement(),
    }


class RemoveCall:
    """`f(x, …)` becomes `(x)`, and `x.f(…)` becomes `x`. Conversions are kept, and what can only fail without."""

    KEPT = frozenset(_CONVERSIONS.split())

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """The places of the calls in a chain such as `x.f().g()`."""
        for call in self._calls(node):
            yield call.start_pos, call.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Remove one of these calls."""
        call = list(self._calls(node))[index]
        place = node.children.index(call)
        if self._is_method(node, place):
            del node.children[place - 1 : place + 1]
        else:
            prefix, first = node.get_first_leaf().prefix, self._first_argument(call).get_code().strip()
            node.children[: place + 1] = [parso.parse(f"{prefix}({first})")]
        return node

    def _calls(self, node: Any) -> Iterator[Any]:
        if node.type not in ("atom_expr", "power"):
            return
        for place, child in enumerate(node.children):
            if child.type != "trailer" or child.children[0].value != "(":
                continue
            name = node.children[place - 1].get_code().strip().removeprefix(".")
            if name not in self.KEPT and (self._is_method(node, place) or self._first_argument(child) is not None):
                yield child

    def _is_method(self, node: Any, place: int) -> bool:
        """Whether it is called on a value, and not on a module, a class or the object itself."""
        owner = node.children[0].get_code().strip()
        is_attribute = node.children[place - 1].get_code().startswith(".")
        return is_attribute and (place > 2 or owner not in {"self", "cls"} | _imported(node.get_root_node()))

    def _first_argument(self, call: Any) -> Any:
        content = call.children[1]
        first = content.children[0] if content.type == "arglist" else content
        return None if first.type in ("argument", "operator") else first


@cache
def _imported(module: Any) -> frozenset[str]:
    return frozenset(name.value for line in module.iter_imports() for name in line.get_defined_names())


class RemoveStatement:
    """Statements such as `x += y` and `x[i] = y` are removed."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """The place of the statement."""
        if node.type == "expr_stmt":
            target, sign = node.children[:2]
            is_element = target.type == "atom_expr" and target.children[-1].get_code().startswith("[")
            if sign.type != "annassign" and (sign.value != "=" or is_element):
                yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:  # noqa: ARG002 - a statement is one place
        """Remove it."""
        return parso.parse(f"{node.get_first_leaf().prefix}pass")


def _excluded(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Messages, docstrings, decorators and annotations: line and column where each begins and ends."""
    for node in ast.walk(ast.parse(source)):
        parts: list[Any] = []
        match node:
            case ast.Raise() | ast.JoinedStr() | ast.Expr(value=ast.Constant()):
                parts = [node]
            case ast.arg() | ast.AnnAssign():
                parts = [node.annotation]
            case ast.FunctionDef():
                parts = [node.returns, *node.decorator_list]
            case ast.ClassDef():
                parts = [*node.decorator_list]
            case ast.keyword(arg="strict"):  # of zip: an assertion about the code
                parts = [node.value]
        for part in filter(None, parts):
            yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)
