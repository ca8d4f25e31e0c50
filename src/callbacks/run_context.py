"""What the callbacks of one run read: the data, and what was measured so far."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from pytorch_lightning import LightningModule
from typing_extensions import get_protocol_members

from segue.datamodules.split_datamodule import SplitDataModule
from segue.models.contracts import Ranker
from segue.runs.history import RunHistory


@dataclass(frozen=True, eq=False, kw_only=True)
class RunContext:
    """The data of a run and its measurements; callbacks only read them.

    Args:
        datamodule: the data, set up.
        history: what was measured; `KeepHistory` and `AfterTest` fill it.
        describe: measures the data, for MLflow.
    """

    datamodule: SplitDataModule
    history: RunHistory = field(default_factory=RunHistory)
    describe: Callable[[SplitDataModule], Mapping[str, Any]] = lambda _: {}


def ranker_of(pl_module: LightningModule) -> Ranker:
    """The module as the ranker that it is.

    Raises:
        TypeError: it is none, a bug of ours.
    """
    if missing := sorted(name for name in get_protocol_members(Ranker) if not hasattr(pl_module, name)):
        raise TypeError(f"{type(pl_module).__name__} is no Ranker (src/models/contracts.py): no {', '.join(missing)}")
    return cast(Ranker, pl_module)
