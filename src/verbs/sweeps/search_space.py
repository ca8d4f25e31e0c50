"""The space of a search, in the words of the command line."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep

from segue.errors import InputError

if TYPE_CHECKING:
    from optuna import Trial


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
    """

    key: str
    text: str
    choices: tuple[str, ...] = ()
    low: float | int = 0.0
    high: float | int = 0.0
    step: int | None = None
    log: bool = False

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
        unused: models whose config has a key that does not change them, by key, such as `{"model.alpha": ["track"]}`.
        settled: gives the value of a key or group in the config of a trial, for the choices of groups that the trial
            has; None if there is no such key, or its value is null.

    Attributes:
        fixed: the fixed overrides.
        dimensions: the dimensions that at least one trial can have.

    Raises:
        InputError: a key cannot be searched, or no key is left to search.
    """

    def __init__(
        self,
        *,
        given: Sequence[Override],
        usual: Sequence[Override],
        unused: Mapping[str, Sequence[str]],
        settled: Callable[[str, Mapping[str, str]], str | None],
    ) -> None:
        requested = {o.key_or_group: o for o in given if o.is_sweep_override()}
        fixed = {o.key_or_group for o in given} - requested.keys()
        self.fixed = [str(o.input_line) for o in given if not o.is_sweep_override()]
        self._requested, self._unused, self._settled = requested.keys(), unused, settled
        searched = {o.key_or_group: o for o in usual} | requested
        every = [_dimension(override) for key, override in searched.items() if key not in fixed]
        every.sort(key=lambda one: (not one.is_group, one.name in unused))  # groups decide which trials have the others
        groups = {one.name: [_bare(choice) for choice in one.choices] for one in every if one.is_group}
        trials = [dict(zip(groups, chosen, strict=True)) for chosen in product(*groups.values())]
        self.dimensions = [one for one in every if any(self._is_there(one, trial) for trial in trials)]
        for one in every:
            if one.name in requested and one not in self.dimensions:
                models = ", ".join(sorted({str(settled("model", trial)) for trial in trials}))
                raise InputError(f"{one.key}={one.text} would never be used with model={models}; leave it out")
        if not self.dimensions:
            raise InputError(
                "nothing is left to search: the command line fixes all keys; leave out an override, or search="
            )

    def words(self, trial: "Trial | None" = None) -> list[str]:
        """Overrides of a trial: the fixed ones, and one for each searched key that it has.

        Args:
            trial: trial of the study, which is asked for values; None for a possible one.
        """
        chosen: dict[str, str] = {}
        words = list(self.fixed)
        for dimension in self.dimensions:
            if self._is_there(dimension, chosen):
                value = dimension.example() if trial is None else dimension.suggest(trial)
                chosen[dimension.name] = _bare(value)
                words.append(f"{dimension.key}={value}")
        return words

    def command(self, values: Mapping[str, Any]) -> list[str]:
        """Overrides that repeat a finished trial.

        Returns:
            The fixed overrides, and those of the trial.
        """
        searched = {dimension.name: dimension.key for dimension in self.dimensions}
        return [*self.fixed, *(f"{searched.get(name, name)}={as_typed(value)}" for name, value in values.items())]

    def _is_there(self, dimension: Dimension, chosen: Mapping[str, str]) -> bool:
        """Whether a trial with these choices of groups has a dimension."""
        if (chosen.get("model") or self._settled("model", chosen)) in self._unused.get(dimension.name, ()):
            return False
        return dimension.name in self._requested or self._settled(dimension.name, chosen) is not None


def _bare(choice: str) -> str:
    return choice.strip("'\"")


def _dimension(override: Override) -> Dimension:
    """The dimension of an override in Hydra's sweep grammar.

    Raises:
        InputError: it is no sweep, or one that cannot be searched.
    """
    line, sweep = str(override.input_line), override.value()
    if override.key_or_group == "seed":
        raise InputError(
            f"{line} would search for the most favourable seed; fix the seed, and train the result with -m seed=1,2,3"
        )
    if isinstance(sweep, ChoiceSweep | RangeSweep):
        sweep.shuffle = False  # the order has no meaning here, and must not change
    tags: set[str] = sweep.tags if isinstance(sweep, Sweep) else set()
    if tags - {"log"}:
        raise InputError(f"{line}: the only tag of a search is log, got {', '.join(sorted(tags))}; leave it out")
    key, text, log = override.get_key_element(), line.partition("=")[2], "log" in tags
    steps = sweep.range() if isinstance(sweep, RangeSweep) else None
    if isinstance(sweep, IntervalSweep):
        low, high = (float(end) if isinstance(end, int | float) else math.nan for end in (sweep.start, sweep.end))
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise InputError(f"{line}: an interval needs two numbers, the smaller one first")
        step = 1 if isinstance(sweep.start, int) and isinstance(sweep.end, int) else None  # int(interval(1, 10))
    elif isinstance(steps, range) and steps.step > 0 and steps:
        low, high, step = steps[0], steps[-1], steps.step
        if log and step > 1:
            raise InputError(f"{line}: a range with a step has no logarithmic scale; leave out the step or the tag")
    else:
        if not override.is_discrete_sweep():
            raise InputError(f"{line} is a single value and cannot be searched; use choice(…), range(…) or interval(…)")
        if log:
            raise InputError(f"{line}: choices have no logarithmic scale; use tag(log, interval(…))")
        if not (choices := tuple(dict.fromkeys(override.sweep_string_iterator()))):
            raise InputError(f"{line} has no values; a range needs a start below its end")
        return Dimension(key=key, text=text, choices=choices)
    if log and low <= 0:
        raise InputError(f"{line}: a logarithmic scale needs an interval above 0; use another start, or no tag")
    return Dimension(key=key, text=text, low=low, high=high, step=step, log=log)
