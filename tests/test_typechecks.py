"""What is annotated is checked in every test: arguments and results, of functions and of dataclasses, and shapes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jaxtyping
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from segue.catalog import Catalog
from segue.statistics.intervals import MeanInterval
from tests.conftest import make_listens
from tests.typechecks import jaxtyped

INTERVAL = MeanInterval(num=1, mean=0.5, lower=0.4, upper=0.6)
LISTENS = make_listens([[(0, 0.5), (1, 1.0)]])
WRONG: dict[str, Any] = {"mean": "long"}


@jaxtyped(typechecker=None)
def shown(number: int) -> str:
    """A function whose result may be wrong."""
    return number  # type: ignore[return-value]  # the wrong type is what is tested


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: Catalog.from_columns(range(1), ["a"], ["b"], source=5), "source=5"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: replace(INTERVAL, **WRONG), "mean='long'"),
        (lambda: replace(LISTENS, track=np.zeros(3, np.int64)), "track"),
        (lambda: replace(LISTENS, played_ratio=np.zeros(2)), "played_ratio"),
        (lambda: LISTENS.where(np.array([1, 0])), "chosen"),
        (lambda: shown(5), "return 5"),
    ],
)
def test_what_has_another_type_or_shape_is_an_error(
    call: Callable[[], Any], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TypeCheckError, match=what):
        call()
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert shown(5) == 5
