"""A trained model with more tracks: what it has learned, in the rows of a larger catalogue.

N tracks, R rows of a table.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from jaxtyping import Int64
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from segue.catalog import Vocabulary
from segue.errors import InputError
from segue.models.contracts import Ranker

Build = Callable[..., LightningModule]
"""Builds a model; takes `vocabulary`."""
_OF_COUNTS = "_extra_state"


class Grown:
    """A model of a larger catalogue that begins with what another one has learned.

    Rows of tracks, artists and values that training did not show before are as the model builds them; all other numbers
    are those of the checkpoint, but those of single listeners.

    Args:
        build: factory of the model.
        saved: the checkpoint.
        before: what the model was trained with.
        vocabulary: what the larger one is trained with; the catalogue begins with that of `before`.
        called: names the run in messages.

    Raises:
        InputError: the checkpoint is not one of this model.

    Attributes:
        module: the model.
    """

    def __init__(
        self, build: Build, saved: Mapping[str, Any], before: Vocabulary, vocabulary: Vocabulary, called: str
    ) -> None:
        self.saved, self.before, self.called, self.module = saved, before, called, build(vocabulary=vocabulary)
        state = dict(saved["state_dict"])
        if _OF_COUNTS in state:
            state[_OF_COUNTS] = _longer_counts(state[_OF_COUNTS], len(vocabulary.catalog))
            self.module.load_state_dict(state)
            return
        old = build(vocabulary=before)
        own = old.state_dict()
        kept = {name: one for name, one in state.items() if not _is_of_listeners(name) or own[name].shape == one.shape}
        try:
            missing, unexpected = old.load_state_dict(kept, strict=False)
            if unexpected or any(not _is_of_listeners(name) for name in missing):
                raise RuntimeError(f"{[*missing, *unexpected][0]}")
        except RuntimeError as error:
            why = " ".join(str(error).split())[:200]
            raise InputError(
                f"{called}: its checkpoint does not fit its config ({why}); begin from another run"
            ) from None
        self._rows = dict(_rows_of_tables(old, self.module))
        self._copy(old)

    @torch.no_grad()
    def _copy(self, old: LightningModule) -> None:
        tables = {id(table.weight): table for table in old.modules() if isinstance(table, nn.Embedding)}
        olds = {**dict(old.named_parameters()), **dict(old.named_buffers())}
        learned_names = old.state_dict().keys()  # other buffers are of the catalogue
        for name, new in [*self.module.named_parameters(), *self.module.named_buffers()]:
            if name not in learned_names:
                continue
            if name in self._rows:
                source, target = self._rows[name]
                learned = olds[name][source]
                if tables[id(olds[name])].embedding_dim > 1:  # a vector of zeros was not shown; a bias may be 0
                    is_shown = learned.any(1)
                    target, learned = target[is_shown], learned[is_shown]
                new[target] = learned
            elif not _is_of_listeners(name) and new.shape == olds[name].shape:
                new.copy_(olds[name])
        own, of_old = (cast("Ranker", one).context.repeats for one in (self.module, old))
        own.set_extra_state(of_old.get_extra_state())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state of the optimizer of the checkpoint, for the optimizer of the larger model, which changes it."""
        saved = self.saved["optimizer_states"][0]
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        state = {}
        for number, parameter in enumerate(parameters):
            name, of_saved = names[id(parameter)], saved["state"].get(number)
            if of_saved is None or _is_of_listeners(name):
                continue
            state[number] = {key: self._longer(one, name, parameter) for key, one in of_saved.items()}
        return {"state": state, "param_groups": saved["param_groups"]}

    def _longer(self, value: Any, name: str, parameter: nn.Parameter) -> Any:
        if name not in self._rows or not isinstance(value, Tensor) or value.ndim == 0:
            return deepcopy(value)
        source, target = self._rows[name]
        longer = value.new_zeros(len(parameter), *value.shape[1:])
        longer[target] = value[source]
        return longer


def _is_of_listeners(name: str) -> bool:
    return name.startswith("loss.") and name not in (
        "loss.log_scale",
        "loss.bias",
        "loss.level",
        "loss.slope",
        "loss.centre",
    )


def _rows_of_tables(
    old: nn.Module, new: nn.Module
) -> Iterator[tuple[str, tuple[Int64[Tensor, "R"], Int64[Tensor, "R"]]]]:
    """Of each table of the model but those of the loss: rows that were, and where they are now."""
    of_new = dict(new.named_modules())
    for name, table in old.named_modules():
        if not isinstance(table, nn.Embedding) or name.startswith("loss."):
            continue
        owner = name.removesuffix(".offset")
        before, now = (getattr(dict(one.named_modules())[owner], "of", None) for one in (old, new))
        rows = torch.arange(table.num_embeddings)
        if before is None or now is None:
            yield f"{name}.weight", (rows, rows)
        else:
            now = now[: len(before)]
            zero = of_new[name].padding_idx  # a row of zeros stays zero
            is_own = torch.ones(len(now), dtype=torch.bool) if zero is None else now != zero
            yield f"{name}.weight", (before[is_own], now[is_own])
        assert name in of_new


def _longer_counts(state: Mapping[str, Tensor], num_tracks: int) -> dict[str, Tensor]:
    """What a baseline has counted, with tracks that nothing was counted of."""
    num_old = len(state["order"])
    starts, num_new = state["starts"], num_tracks - num_old
    if len(starts) == num_old + 1:  # a row for each track, not for each session
        starts = torch.cat([starts, starts[-1:].expand(num_new)])
    order = torch.cat([state["order"], state["order"].min().expand(num_new)])
    trend = torch.cat([state["trend"], state["trend"].new_ones(num_new)])
    return {**state, "starts": starts, "order": order, "trend": trend}
