"""What a search may choose among, in the words of the command line."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import product
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep

from src.errors import InputError

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What another key must or must not be for a dimension to be there: `model=convex`, `model!=track,artist`."""

    key: str
    values: frozenset[str]
    negated: bool

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read its text."""
        key, _, values = text.partition("=")
        return cls(
            key=key.removesuffix("!").strip(),
            values=frozenset(map(str.strip, values.split(","))),
            negated=key.endswith("!"),
        )

    def holds(self, value: str | None) -> bool:
        """Whether the other key may have this value."""
        return (value in self.values) != self.negated

    def __str__(self) -> str:
        return f"{self.key}{'!' * self.negated}={','.join(sorted(self.values))}"


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One thing that is searched for.

    Args:
        key: as on the command line, with its `+` where it has one.
        text: what it was made of.
        choices: its values, in Hydra's words; none where it is an interval.
        low: lower end of the interval.
        high: upper end, which belongs to it.
        step: between whole numbers; None where any number will do.
        log: whether it is drawn on a logarithmic scale.
        only_with: conditions under which, all of them together, this one is there.
        was_asked_for: whether the command line names it. If not, trials whose config has no such key go without it.
    """

    key: str
    text: str
    choices: tuple[str, ...] = ()
    low: float | int = 0.0
    high: float | int = 0.0
    step: int | None = None
    log: bool = False
    only_with: tuple[Condition, ...] = ()
    was_asked_for: bool = False

    @property
    def name(self) -> str:
        """The key without `+`."""
        return self.key.lstrip("+")

    @property
    def is_group(self) -> bool:
        """Whether it chooses among config groups, such as `model`, and not a value, such as `model.dim`."""
        return bool(self.choices) and "." not in self.name

    def suggest(self, trial: "Trial") -> str:
        """A value, as it is typed; numbers have four digits, which people can read and no result hangs on."""
        if self.choices:
            return str(trial.suggest_categorical(self.name, self.choices))
        if self.step is not None:
            return str(trial.suggest_int(self.name, int(self.low), int(self.high), step=self.step, log=self.log))
        return as_typed(trial.suggest_float(self.name, self.low, self.high, log=self.log))

    def example(self) -> str:
        """One of its values."""
        return self.choices[0] if self.choices else as_typed(self.low if self.step is None else int(self.low))


def as_typed(value: Any) -> str:
    """A value of a dimension, as it stands on the command line."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Space:
    """What is searched, and what stands fast.

    Args:
        given: the command line. A sweep in it is a dimension, and takes the place of one in `usual`; anything else
            stands fast, and takes its key out of the space.
        usual: the dimensions that there are otherwise, in every trial whose config has such a key.
        only_with: for a key, the condition that brings it into the space: `{"model.alpha": "model=convex"}`; of a
            list each is needed.
        settled: value of a key or group that is not searched, given what a trial has chosen of the others; None where
            there is no such key.

    Raises:
        InputError: something cannot be searched, or nothing is left to be.
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
        asked_for = {o.key_or_group: o for o in given if o.is_sweep_override()}
        kept = {o.key_or_group for o in fixed}
        made = {
            name: _dimension(override, only_with.get(name, []), was_asked_for=name in asked_for)
            for name, override in ({o.key_or_group: o for o in usual} | asked_for).items()
            if name not in kept
        }
        self._dimensions = [made[name] for name in _in_order(made)]
        for override in given:
            if override.is_sweep_override():
                self._check_reachable(made[override.key_or_group], str(override.input_line))
        if not any(self._reachable(dimension) for dimension in self._dimensions):
            raise InputError(
                "nothing is left to search: the command line fixes it all; leave out an override, or search="
            )

    @property
    def dimensions(self) -> list[Dimension]:
        """Those that some trial may have."""
        return [dimension for dimension in self._dimensions if self._reachable(dimension)]

    def suggest(self, trial: "Trial") -> list[str]:
        """Overrides of a trial: those that stand fast, and what is tried."""
        return self._words(lambda dimension: dimension.suggest(trial))

    def example(self) -> list[str]:
        """Overrides of a trial that could be."""
        return self._words(Dimension.example)

    def command(self, values: Mapping[str, Any]) -> list[str]:
        """Overrides that stand fast, and those of a trial that is over."""
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
        """All that tells this space from another, in plain values."""
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
        """Whether the config has its key, given what was chosen; what was asked for is not doubted."""
        return dimension.was_asked_for or self._settled(dimension.name, chosen) is not None

    def _reachable(self, dimension: Dimension) -> bool:
        """Whether a trial can have it: what brings it in is searched too, or has been chosen."""
        return any(self._has(dimension, chosen) for chosen in self._choices_of_groups()) and all(
            self._can_hold(condition) for condition in dimension.only_with
        )

    def _check_reachable(self, dimension: Dimension, line: str) -> None:
        """Refuse what no trial would have, since nothing else would say so."""
        for condition in dimension.only_with:
            if not self._can_hold(condition):
                key = condition.key
                searched = [other.text for other in self._dimensions if other.name == key]
                here = searched[0] if searched else ",".join(sorted(self._can_settle(key)))
                raise InputError(
                    f"{line} would never be tried: it is searched only with {condition}, "
                    f"and here is {key}={here}; leave it out, or choose another {key}"
                )

    def _can_hold(self, condition: Condition) -> bool:
        for other in self._dimensions:
            if other.name == condition.key and self._reachable(other):
                return not other.choices or any(condition.holds(choice.strip("'\"")) for choice in other.choices)
        return any(condition.holds(value) for value in self._can_settle(condition.key))

    def _can_settle(self, key: str) -> set[str]:
        """What a key that is not searched can be, with all that the searched groups can be."""
        return {str(self._settled(key, chosen)) for chosen in self._choices_of_groups()}

    def _choices_of_groups(self) -> Iterator[dict[str, str]]:
        """All that the searched groups can be together."""
        groups = [dimension for dimension in self._dimensions if dimension.is_group]
        names = [group.name for group in groups]
        for chosen in product(*([choice.strip("'\"") for choice in group.choices] for group in groups)):
            yield dict(zip(names, chosen, strict=True))


def _in_order(dimensions: Mapping[str, Dimension]) -> list[str]:
    """A key stands behind the one that brings it in, and values behind groups, which can change what else there is."""
    groups = {name for name, dimension in dimensions.items() if dimension.is_group}
    behind = {
        name: {condition.key for condition in d.only_with} | (set() if d.is_group else groups)
        for name, d in dimensions.items()
    }
    try:
        return [name for name in TopologicalSorter(behind).static_order() if name in dimensions]
    except CycleError as error:
        raise InputError(f"search.only_with goes round in a circle: {' → '.join(error.args[1])}") from None


def _dimension(override: Override, only_with: str | list[str], *, was_asked_for: bool) -> Dimension:
    """What Hydra's sweep grammar says, as a dimension.

    Raises:
        InputError: it is no sweep, or one that cannot be searched.
    """
    line, sweep = str(override.input_line), override.value()
    text = line.partition("=")[2]
    if override.key_or_group == "seed":
        raise InputError(
            f"{line} would look for the luckiest seed; fix it, and train what is found with -m seed=1,2,3 afterwards"
        )
    conditions = tuple(map(Condition.parse, [only_with] if isinstance(only_with, str) else only_with))
    common: dict[str, Any] = {"key": override.get_key_element(), "text": text, "only_with": conditions}
    common["was_asked_for"] = was_asked_for
    if isinstance(sweep, ChoiceSweep | RangeSweep):
        sweep.shuffle = False  # the order means nothing here, and must not change
    tags: set[str] = sweep.tags if isinstance(sweep, Sweep) else set()
    if tags - {"log"}:
        raise InputError(f"{line}: the only tag that a search knows is log, got {', '.join(sorted(tags))}")
    log = "log" in tags
    if isinstance(sweep, IntervalSweep):
        low, high = _number(sweep.start), _number(sweep.end)
        whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)  # int(interval(1, 10))
        return _checked(Dimension(**common, low=low, high=high, step=1 if whole else None, log=log), line)
    steps = sweep.range() if isinstance(sweep, RangeSweep) else None
    if isinstance(steps, range) and steps.step > 0 and steps:
        if log and steps.step > 1:
            raise InputError(f"{line}: a range with a step has no logarithm; leave out the step or the tag")
        return _checked(Dimension(**common, low=steps[0], high=steps[-1], step=steps.step, log=log), line)
    if not override.is_discrete_sweep():
        raise InputError(f"{line} is one value, nothing to search; say choice(…), range(…) or interval(…)")
    if log:
        raise InputError(f"{line}: choices have no logarithm; use tag(log, interval(…))")
    if not (choices := tuple(dict.fromkeys(override.sweep_string_iterator()))):
        raise InputError(f"{line} has no values")
    return Dimension(**common, choices=choices)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _checked(dimension: Dimension, line: str) -> Dimension:
    if not (math.isfinite(dimension.low) and math.isfinite(dimension.high) and dimension.low <= dimension.high):
        raise InputError(f"{line}: an interval goes from a number to one that is not smaller")
    if dimension.log and dimension.low <= 0:
        raise InputError(f"{line}: on a logarithmic scale an interval starts above 0")
    return dimension
