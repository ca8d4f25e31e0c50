"""The checks of annotations, quicker: jaxtyping compares shapes where a function has some, and beartype all others.

`--jaxtyping-packages` puts `jaxtyping.jaxtyped` on every function. It makes two functions of each, and checks the
arguments of a call twice, so that letters such as `B` mean one number in all of its annotations. Where no annotation
has letters, a check by beartype alone finds the same errors, in less time.
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
        if function.__globals__["__name__"] == __name__:  # it has a check already, see `segue.settings`
            return made
        hints = {
            name: _without_text(hint, function.__globals__) if _any_in(hint, _is_text) else hint
            for name, hint in function.__annotations__.items()
        }
        if any(_any_in(hint, _has_shape) for hint in hints.values()):
            return _with_shapes(made, typechecker=typechecker)
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

    return called


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
