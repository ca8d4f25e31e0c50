"""Settings: how a parameter is described once, and where its check, its default in the config and its page come from.

A setting is a keyword-only parameter `dim: Annotated[int, Setting("width of an embedding", least=1)] = 64` of a class
or a function that `conf/` builds. Its name, type, range, default and meaning stand there alone. Settings of a group
inside, such as `datamodule.units`, are the fields of a dataclass, which is a part of the class.
"""

import ast
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from segue.errors import InputError

_Made = TypeVar("_Made", bound=Callable[..., Any])
_Built = TypeVar("_Built")
_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Setting:
    """What a parameter means, and which values it may have beyond its type.

    Args:
        meaning: in one line; unit and surprises included.
        least: smallest number.
        above: bound that a number must exceed.
        most: largest number.
        choices: of a text.
        hint: a remedy, at the end of the message.
        key: its name on the command line, where that is not what `settings` says.
    """

    meaning: str
    least: int | float | None = None
    above: int | float | None = None
    most: int | float | None = None
    choices: Sequence[str] = ()
    hint: str = ""
    key: str = ""


def settings(group: str = "", *parts: Any) -> Callable[[_Made], _Made]:
    """Check the settings of a class or a function when it is called.

    Args:
        group: what comes before their names on the command line, such as `model`.
        parts: classes with settings that it takes too, and hands on to them.

    Returns:
        A decorator. A value that breaks a rule is an `InputError` of one line.
    """

    def decorate(made: _Made) -> _Made:
        function = _function_of(made)

        @functools.wraps(function)
        def called(*args: Any, **given: Any) -> Any:
            for name, (kind, setting) in _settings(function).items():
                if name in given:
                    given[name] = checked(_key(group, name, setting), given[name], kind, setting)
            return function(*args, **given)

        vars(called).update(group=group, parts=parts)
        if not inspect.isclass(made):
            return called  # type: ignore[return-value]  # of the same signature
        type.__setattr__(made, "__init__", called)
        return made

    return decorate


def from_config(made: type[_Built], config: object, *, key: str, **others: Any) -> _Built:
    """Build an object from a part of a config, which may have its settings and nothing else.

    Args:
        made: the class of the object.
        config: value of some of its settings, by name.
        key: name of this part on the command line, such as `datamodule.files`.
        others: its arguments that are no settings.

    Raises:
        InputError: the part is no mapping, has an unknown key, or a value breaks a rule.
    """
    known: Any = _settings(_function_of(made))
    if not isinstance(config, Mapping):
        raise InputError(f"{key} must be a mapping with the keys {', '.join(known)}, got {config!r}")
    refuse_unknown(config, list(known), key=key)
    return made(**others, **{name: checked(f"{key}.{name}", config[name], *known[name]) for name in config})


def refuse_unknown(config: Mapping[str, Any], known: Sequence[str], *, key: str) -> None:
    """Refuse a key that no setting has, and suggest the nearest one.

    Raises:
        InputError: a key is unknown.
    """
    for name in config:
        if name not in known:
            nearest = get_close_matches(str(name), known, 1)
            remedy = f"did you mean {nearest[0]}?" if nearest else f"the keys are {', '.join(known) or 'none'}"
            raise InputError(f"{key} has no key {name!r}; {remedy}")


def _key(group: str, name: str, setting: Setting) -> str:
    return setting.key or f"{group}.{name}".removeprefix(".")


def with_defaults(config: Any) -> Any:
    """A config in which each `_target_` of ours has the settings that it leaves out, with their defaults.

    They are read from the source of the target, which may need torch, without importing it.

    Args:
        config: plain dicts, lists and values.
    """
    if isinstance(config, list):
        return [with_defaults(node) for node in config]
    if not isinstance(config, dict):
        return config
    defaults = _read(config["_target_"])[1] if isinstance(config.get("_target_"), str) else {}
    return {key: with_defaults(value) for key, value in config.items()} | {
        key: value for key, value in defaults.items() if key not in config
    }


@functools.cache
def _read(target: str) -> tuple[str, dict[str, Any]]:
    """Group and defaults of the settings of a class or a function of this package, with those of its parts.

    A part whose settings are in a group inside, such as `datamodule.policies` in `datamodule`, is a mapping.

    Args:
        target: its dotted name.
    """
    module, _, name = target.rpartition(".")
    body = _body(module)
    node = next((one for one in body if isinstance(one, ast.FunctionDef | ast.ClassDef) and one.name == name), None)
    if node is None:
        return "", {}
    imports = [one for one in body if isinstance(one, ast.ImportFrom)]
    homes = {alias.name: one.module for one in imports for alias in one.names}

    def read(part: ast.expr) -> tuple[str, dict[str, Any]]:
        word = ast.unparse(part)
        return _read(f"{homes.get(word, module)}.{word}")

    inits = [one for one in [node, *node.body] if isinstance(one, ast.FunctionDef) and one.name in (name, "__init__")]
    defaults = {}
    if inits:
        arguments = zip(inits[0].args.kwonlyargs, inits[0].args.kw_defaults, strict=True)
        defaults = {argument.arg: _value(default) for argument, default in arguments if default is not None}
    elif isinstance(node, ast.ClassDef):
        for base in node.bases:
            defaults |= read(base)[1]
        fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and one.value is not None]
        defaults |= {ast.unparse(field.target): _value(field.value) for field in fields}
    calls = [one for one in node.decorator_list if isinstance(one, ast.Call) and ast.unparse(one.func) == "settings"]
    given, *parts = [argument for call in calls for argument in call.args] or [ast.Constant("")]
    group = str(ast.literal_eval(given))
    for inner, of_part in map(read, parts):
        key = inner.removeprefix(group).removeprefix(".")
        defaults |= {key: of_part} if key else of_part
    return group, defaults


@functools.cache
def _body(module: str) -> list[ast.stmt]:
    package, *folders = module.split(".")
    path = _PACKAGE.joinpath(*folders).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8")).body if package == "segue" and path.is_file() else []


def _value(default: ast.expr | None) -> Any:
    assert default is not None
    if isinstance(default, ast.Call):  # field(default_factory=…) of a mapping
        factory = default.keywords[0].value
        return ast.literal_eval(factory.body) if isinstance(factory, ast.Lambda) else {}
    return ast.literal_eval(default)


def described(made: Callable[..., Any]) -> dict[str, tuple[str, str, str]]:
    """The settings of a class or a function, for a page.

    Args:
        made: the class or the function.

    Returns:
        Name on the command line, rule, and meaning with the hint of each, by the name of the parameter; those of its
            parts by the name on the command line.
    """
    function: Any = _function_of(made)
    own = {
        name: (_key(function.group, name, setting), _rule(kind, setting), setting.meaning + _hint(setting))
        for name, (kind, setting) in _settings(function).items()
    }
    return own | {cells[0]: cells for part in getattr(function, "parts", ()) for cells in described(part).values()}


def _function_of(made: Any) -> Callable[..., Any]:
    """What is called: a function itself, the constructor of a class."""
    function: Callable[..., Any] = made.__init__ if inspect.isclass(made) else made
    return function


@functools.cache
def _settings(function: Callable[..., Any]) -> dict[str, tuple[Any, Setting]]:
    """Type and description of each parameter of a function that has one."""
    found: dict[str, tuple[Any, Setting]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if get_origin(parameter.annotation) is Annotated:
            kind, note, *_ = get_args(parameter.annotation)
            found |= {name: (kind, note)} if isinstance(note, Setting) else {}
    return found


def checked(name: str, value: Any, kind: Any, setting: Setting) -> Any:
    """The value of a setting; also of one whose range only data decide.

    Args:
        name: its name on the command line.
        value: what is given.
        kind: its type.
        setting: its range.

    Raises:
        InputError: it has another type, or is out of range.
    """
    from pydantic import ValidationError

    with suppress(ValidationError):
        made = _adapter(kind).validate_python(value)
        leaves = list(made.values()) if isinstance(made, Mapping) else made
        if all(_is_allowed(one, setting) for one in (leaves if isinstance(leaves, list | tuple) else [leaves])):
            return made
    raise InputError(f"{name} must be {_rule(kind, setting)}, got {value!r}{_hint(setting)}")


def _hint(setting: Setting) -> str:
    return f"; {setting.hint}" if setting.hint else ""


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def _is_allowed(value: Any, setting: Setting) -> bool:
    if isinstance(value, str):
        return not setting.choices or value in setting.choices
    if not isinstance(value, int | float) or isinstance(value, bool):
        return True
    is_enough = (setting.least is None or value >= setting.least) and (setting.above is None or value > setting.above)
    return is_enough and (setting.most is None or value <= setting.most)


def _rule(kind: Any, setting: Setting) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(_rule(one, setting) for one in inner)
    if origin is Literal:
        words = [str(word) or "''" for word in inner]
        return " or ".join(words) if len(words) < 3 else f"one of {', '.join(words)}"
    if kind in (int, float):
        bounds = [f"of at least {setting.least:.15g}"] if setting.least is not None else []
        bounds += [f"above {setting.above:g}"] if setting.above is not None else []
        bounds += [f"at most {setting.most:.15g}"] if setting.most is not None else []
        return " ".join(["a whole number" if kind is int else "a number", " and ".join(bounds)]).strip()
    if kind is str and setting.choices:
        return f"one of {', '.join(setting.choices)}"
    if origin is not None and issubclass(origin, Mapping):
        of = "" if inner[0] is str else f" of {_rule(inner[0], setting)}"
        return f"a mapping{of} to {_rule(inner[1], setting)}"
    if origin is not None and issubclass(origin, Sequence):
        return f"a list of {_rule(inner[0], setting)}"
    return {bool: "true or false", NoneType: "null", str: "a text", Any: "anything"}[kind]
