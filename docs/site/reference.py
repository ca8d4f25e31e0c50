"""Signatures of the reference have the type of a setting alone; its range and meaning are in the list of arguments."""

import inspect
import re
from collections.abc import Iterator
from pydoc import locate
from typing import Any

from griffe import Attribute, Class, Expr, ExprSubscript, ExprTuple, Extension, Function, Module


class Settings(Extension):
    """Reads `Annotated[<type>, Setting(<meaning>, …)]` of every signature."""

    def on_package(self, *, pkg: Module, **_: object) -> None:
        """Shorten the annotations of a package, and describe its settings where they are arguments."""
        for described in _objects(pkg):
            if isinstance(described, Attribute):
                described.annotation = _bare(described.annotation)
                continue
            arguments = [one for one in described.parameters if _bare(one.annotation) is not one.annotation]
            for argument in arguments:
                argument.annotation = _bare(argument.annotation)
            if arguments and described.docstring is not None:
                rows = _rows(described.path, [one.name for one in arguments])
                described.docstring.value = _with_arguments(described.docstring.value, rows)


def _objects(scope: Any) -> Iterator[Class | Function | Attribute]:
    """The classes of a package with their attributes, and its functions."""
    for member in scope.members.values():
        if member.is_alias:
            continue
        if member.is_class or (member.is_function and member.name != "__init__"):
            yield member
        if member.is_attribute and scope.is_class:
            yield member
        if member.is_class or member.is_module:
            yield from _objects(member)


def _bare(annotation: str | Expr | None) -> str | Expr | None:
    """The type of an annotation."""
    if isinstance(annotation, ExprSubscript) and str(annotation.left) == "Annotated":
        return annotation.slice.elements[0] if isinstance(annotation.slice, ExprTuple) else annotation
    return annotation


def _rows(path: str, names: list[str]) -> list[str]:
    """A line for each argument that is a setting."""
    from segue.settings import described

    target: Any = locate(path)
    function = target.__init__ if inspect.isclass(target) else target
    if not hasattr(function, "group"):
        return []
    cells = described(target)
    return [f"    {name}: {cells[name][2]}; {cells[name][1]}" for name in names if name in cells]


def _with_arguments(text: str, rows: list[str]) -> str:
    """A docstring with further arguments."""
    if not rows:
        return text
    if not re.search(r"^Args:\n", text, re.MULTILINE):
        text += "\n\nArgs:"
    return re.sub(r"^Args:(?:\n +.*)*", lambda match: "\n".join([match[0], *rows]), text, count=1, flags=re.MULTILINE)
