"""The space of a search, in the words of the command line."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import product
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep

from segue.errors import InputError

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition on another key under which a dimension is searched: `model=convex`, `model!=track,artist`.

    Args:
        key: the other key.
        values: its allowed values, or with `negated` its forbidden ones.
        negated: whether `values` are forbidden.
    """

    key: str
    values: frozenset[str]
    negated: bool

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read a condition.

        Args:
            text: such as `model!=track,artist`.
        """
        key, _, values = text.partition("=")
        return cls(
            key=key.removesuffix("!").strip(),
            values=frozenset(map(str.strip, values.split(","))),
            negated=key.endswith("!"),
        )

    def holds(self, value: str | None) -> bool:
        """Whether the condition is met if the other key has this value; None if there is no such key."""
        return (value in self.values) != self.negated

    def __str__(self) -> str:
        return f"{self.key}{'!' * self.negated}={','.join(sorted(self.values))}"


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One searched key.

    Args:
        key: the key as on the command line, with its `+` if it has one.
        text: its values as on the command line.
        choices: its values, as Hydra writes them; empty for an interval.
        low: lower end of the interval.
        high: upper end of the interval, included.
        step: step between whole numbers; None for real numbers.
        log: whether values are drawn on a logarithmic scale.
        only_with: conditions; the key is searched only if all of them are met.
        was_requested: whether the command line names it. If not, trials whose config has no such key leave it out.
    """

    key: str
    text: str
    choices: tuple[str, ...] = ()
    low: float | int = 0.0
    high: float | int = 0.0
    step: int | None = None
    log: bool = False
    only_with: tuple[Condition, ...] = ()
    was_requested: bool = False

    @property
    def name(self) -> str:
        """The key without `+`."""
        return self.key.lstrip("+")

    @property
    def is_group(self) -> bool:
        """Whether it chooses a config group, such as `model`, and not a value, such as `model.dim`."""
        return bool(self.choices) and "." not in self.name

    def suggest(self, trial: "Trial") -> str:
        """Ask a trial for a value.

        Args:
            trial: trial of the study.

        Returns:
            The value as typed on the command line; real numbers have four significant digits.
        """
        if self.choices:
            return str(trial.suggest_categorical(self.name, self.choices))
        if self.step is not None:
            return str(trial.suggest_int(self.name, int(self.low), int(self.high), step=self.step, log=self.log))
        return as_typed(trial.suggest_float(self.name, self.low, self.high, log=self.log))

    def example(self) -> str:
        """One of its values."""
        return self.choices[0] if self.choices else as_typed(self.low if self.step is None else int(self.low))


def as_typed(value: Any) -> str:
    """A value of a dimension, as typed on the command line."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Space:
    """The searched keys and the fixed overrides.

    Args:
        given: overrides of the command line. A sweep replaces or adds a dimension; any other override fixes its key.
        usual: the default dimensions, for trials whose config has the key.
        only_with: conditions under which a key is searched, such as `{"model.alpha": "model=convex"}`; all conditions
            of a list must be met.
        settled: gives the value of a key or group that is not searched, for the choices of a trial; None if there is
            no such key.

    Raises:
        InputError: a key cannot be searched, or no key is left to search.
    """

    def __init__(
        self,
        *,
        given: Sequence[Override],
        usual: Sequence[Override],
        only_with: Mapping[str, str | list[str]],
        settled: Callable[[str, Mapping[str, str]], str | None],
    ) -> None:
        fixed = [o for o in given if not o.is_sweep_override()]
        self.fixed = [str(o.input_line) for o in fixed]
        self._settled = settled
        requested = {o.key_or_group: o for o in given if o.is_sweep_override()}
        fixed_keys = {o.key_or_group for o in fixed}
        by_name = {
            name: _dimension(override, only_with.get(name, []), was_requested=name in requested)
            for name, override in ({o.key_or_group: o for o in usual} | requested).items()
            if name not in fixed_keys
        }
        self._dimensions = [by_name[name] for name in _in_order(by_name)]
        for override in given:
            if override.is_sweep_override():
                self._check_reachable(by_name[override.key_or_group], str(override.input_line))
        if not any(self._reachable(dimension) for dimension in self._dimensions):
            raise InputError(
                "nothing is left to search: the command line fixes all keys; leave out an override, or search="
            )

    @property
    def dimensions(self) -> list[Dimension]:
        """The dimensions that at least one trial can have."""
        return [dimension for dimension in self._dimensions if self._reachable(dimension)]

    def suggest(self, trial: "Trial") -> list[str]:
        """Overrides of a trial.

        Args:
            trial: trial of the study, which is asked for values.

        Returns:
            The fixed overrides, and one override for each searched key that the trial has.
        """
        return self._words(lambda dimension: dimension.suggest(trial))

    def example(self) -> list[str]:
        """Overrides of a possible trial."""
        return self._words(Dimension.example)

    def command(self, values: Mapping[str, Any]) -> list[str]:
        """Overrides that repeat a finished trial.

        Args:
            values: parameters of the trial.

        Returns:
            The fixed overrides, and those of the trial.
        """
        searched = {dimension.name: dimension.key for dimension in self._dimensions}
        return [*self.fixed, *(f"{searched.get(name, name)}={as_typed(value)}" for name, value in values.items())]

    def _words(self, pick: Callable[[Dimension], str]) -> list[str]:
        chosen: dict[str, str] = {}
        words = list(self.fixed)
        for dimension in self._dimensions:
            if self._is_there(dimension, chosen):
                value = pick(dimension)
                chosen[dimension.name] = value.strip("'\"")
                words.append(f"{dimension.key}={value}")
        return words

    def describe(self) -> dict[str, Any]:
        """The space in plain values; two spaces are equal if their descriptions are."""
        return {
            "fixed": sorted(self.fixed),
            "space": {
                d.name: [d.text, [str(condition) for condition in d.only_with]]
                for d in sorted(self.dimensions, key=lambda d: d.name)
            },
        }

    def _is_there(self, dimension: Dimension, chosen: Mapping[str, str]) -> bool:
        return self._has(dimension, chosen) and all(
            condition.holds(chosen[condition.key] if condition.key in chosen else self._settled(condition.key, chosen))
            for condition in dimension.only_with
        )

    def _has(self, dimension: Dimension, chosen: Mapping[str, str]) -> bool:
        """Whether the config has its key, for the choices of a trial; always true for a requested key."""
        return dimension.was_requested or self._settled(dimension.name, chosen) is not None

    def _reachable(self, dimension: Dimension) -> bool:
        """Whether a trial can have it: each of its conditions can be met."""
        return any(self._has(dimension, chosen) for chosen in self._choices_of_groups()) and all(
            self._can_hold(condition) for condition in dimension.only_with
        )

    def _check_reachable(self, dimension: Dimension, line: str) -> None:
        """Refuse a key that no trial would have; without this check it would be ignored silently."""
        for condition in dimension.only_with:
            if not self._can_hold(condition):
                key = condition.key
                searched = [other.text for other in self._dimensions if other.name == key]
                here = searched[0] if searched else ",".join(sorted(self._can_settle(key)))
                raise InputError(
                    f"{line} would never be used: it is searched only with {condition}, "
                    f"but {key}={here}; leave it out, or choose another {key}"
                )

    def _can_hold(self, condition: Condition) -> bool:
        for other in self._dimensions:
            if other.name == condition.key and self._reachable(other):
                return not other.choices or any(condition.holds(choice.strip("'\"")) for choice in other.choices)
        return any(condition.holds(value) for value in self._can_settle(condition.key))

    def _can_settle(self, key: str) -> set[str]:
        """The possible values of a key that is not searched, over all choices of the searched groups."""
        return {str(self._settled(key, chosen)) for chosen in self._choices_of_groups()}

    def _choices_of_groups(self) -> Iterator[dict[str, str]]:
        """All combinations of the searched groups."""
        groups = [dimension for dimension in self._dimensions if dimension.is_group]
        names = [group.name for group in groups]
        for chosen in product(*([choice.strip("'\"") for choice in group.choices] for group in groups)):
            yield dict(zip(names, chosen, strict=True))


def _in_order(dimensions: Mapping[str, Dimension]) -> list[str]:
    """Names in an order in which a key follows the keys of its conditions, and values follow groups."""
    groups = {name for name, dimension in dimensions.items() if dimension.is_group}
    predecessors = {
        name: {condition.key for condition in d.only_with} | (set() if d.is_group else groups)
        for name, d in dimensions.items()
    }
    try:
        return [name for name in TopologicalSorter(predecessors).static_order() if name in dimensions]
    except CycleError as error:
        cycle = " → ".join(error.args[1])
        raise InputError(f"search.only_with has a cycle: {cycle}; remove one of these conditions") from None


def _dimension(override: Override, only_with: str | list[str], *, was_requested: bool) -> Dimension:
    """The dimension of an override in Hydra's sweep grammar.

    Raises:
        InputError: it is no sweep, or one that cannot be searched.
    """
    line, sweep = str(override.input_line), override.value()
    text = line.partition("=")[2]
    if override.key_or_group == "seed":
        raise InputError(
            f"{line} would search for the most favourable seed; fix the seed, and train the result with -m seed=1,2,3"
        )
    conditions = tuple(map(Condition.parse, [only_with] if isinstance(only_with, str) else only_with))
    common: dict[str, Any] = {"key": override.get_key_element(), "text": text, "only_with": conditions}
    common["was_requested"] = was_requested
    if isinstance(sweep, ChoiceSweep | RangeSweep):
        sweep.shuffle = False  # the order has no meaning here, and must not change
    tags: set[str] = sweep.tags if isinstance(sweep, Sweep) else set()
    if tags - {"log"}:
        raise InputError(f"{line}: the only tag of a search is log, got {', '.join(sorted(tags))}; leave it out")
    log = "log" in tags
    if isinstance(sweep, IntervalSweep):
        low, high = _number(sweep.start), _number(sweep.end)
        whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)  # int(interval(1, 10))
        return _checked(Dimension(**common, low=low, high=high, step=1 if whole else None, log=log), line)
    steps = sweep.range() if isinstance(sweep, RangeSweep) else None
    if isinstance(steps, range) and steps.step > 0 and steps:
        if log and steps.step > 1:
            raise InputError(f"{line}: a range with a step has no logarithmic scale; leave out the step or the tag")
        return _checked(Dimension(**common, low=steps[0], high=steps[-1], step=steps.step, log=log), line)
    if not override.is_discrete_sweep():
        raise InputError(f"{line} is a single value and cannot be searched; use choice(…), range(…) or interval(…)")
    if log:
        raise InputError(f"{line}: choices have no logarithmic scale; use tag(log, interval(…))")
    if not (choices := tuple(dict.fromkeys(override.sweep_string_iterator()))):
        raise InputError(f"{line} has no values; a range needs a start below its end")
    return Dimension(**common, choices=choices)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _checked(dimension: Dimension, line: str) -> Dimension:
    if not (math.isfinite(dimension.low) and math.isfinite(dimension.high) and dimension.low <= dimension.high):
        raise InputError(f"{line}: an interval needs two numbers, the smaller one first")
    if dimension.log and dimension.low <= 0:
        raise InputError(f"{line}: a logarithmic scale needs an interval above 0; use another start, or no tag")
    return dimension
