"""The checks of annotations, quicker: beartype checks each call once, and a letter of shapes is one number in a call.

`--jaxtyping-packages` puts `jaxtyping.jaxtyped` on every function. It makes two functions of each and checks the
arguments of a call twice, for the words of its errors. Beartype alone finds the same errors, in less time; letters such
as `B` mean the same in all annotations of a call because jaxtyping remembers them until it returns.
"""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, ForwardRef, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import _decorator
from jaxtyping._storage import pop_shape_memo, push_shape_memo  # no public name opens the letters of one call

_with_shapes = jaxtyping.jaxtyped
_without_text: Any = _decorator._destring_annotation
_check = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """What stands in the place of `jaxtyping.jaxtyped`."""

    def decorate(made: Any) -> Any:
        function = vars(made).get("__init__") if dataclasses.is_dataclass(made) else made
        if function is None:  # a dataclass inherits it
            return made
        if not isinstance(function, types.FunctionType) or inspect.isgeneratorfunction(function):
            return _with_shapes(made, typechecker=typechecker)
        if hasattr(function, "__wrapped__"):  # `segue.settings` checks it
            return made
        if "<locals>" in function.__qualname__:  # it would get a new check each time that the function around it runs
            return made
        hints = {
            name: _without_text(hint, function.__globals__) if _any_in(hint, _is_text) else hint
            for name, hint in function.__annotations__.items()
        }
        called = _checked(function, hints)
        if function is made:
            return called
        made.__init__ = called
        return made

    return decorate


def _checked(function: types.FunctionType, hints: dict[str, Any]) -> Callable[..., Any]:
    written, function.__annotations__ = function.__annotations__, hints
    checked = _check(function)
    function.__annotations__ = written

    @functools.wraps(function)
    def called(*args: Any, **named: Any) -> Any:
        return (function if jaxtyping.config.jaxtyping_disable else checked)(*args, **named)

    @functools.wraps(function)
    def called_with_shapes(*args: Any, **named: Any) -> Any:
        push_shape_memo({})
        try:
            return called(*args, **named)
        finally:
            pop_shape_memo()

    return called_with_shapes if any(_any_in(hint, _has_shape) for hint in hints.values()) else called


def _any_in(hint: Any, holds: Callable[[Any], bool]) -> bool:
    """Whether something is true of a hint or of a part of it."""
    parts = hint if isinstance(hint, list | tuple) else get_args(hint)  # lists: the arguments of a Callable
    return holds(hint) or any(_any_in(part, holds) for part in parts)


def _is_text(hint: Any) -> bool:
    return isinstance(hint, str | ForwardRef)


def _has_shape(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


def install() -> None:
    """Let modules that are imported from now on have these checks."""
    vars(jaxtyping)["jaxtyped"] = jaxtyped
