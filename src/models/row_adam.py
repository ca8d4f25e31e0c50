"""An optimizer whose step costs what the batch is large, whatever the size of the tables."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from src.errors import check_number

_PIECE = 2**17
"""Numbers that a processor moves at once: rows and what is made of them stay in its cache, for half of the time."""


class RowAdam(Optimizer):
    """Adam without momentum (β₁ = 0): a step touches those rows of a table alone that the batch shows.

    Without momentum, Adam too leaves a row where it is when its gradient is zero; only its mean square shrinks, and
    that can wait until the row is shown again. So this is `torch.optim.Adam(betas=(0, beta2))`, at a cost that does not
    grow with the catalogue. Rows are known from sparse gradients; a dense one moves its whole parameter.

    Args:
        params: parameters, or groups of them.
        lr: learning rate, at least 0.
        beta2: share of the mean square of gradients that outlives a step, in [0, 1).
        eps: added to the root of the mean square, above 0.
        weight_decay: times the weights is added to the gradient, at least 0. Unlike in Adam, rows that the batch does
            not show do not decay.

    Raises:
        InputError: an argument is out of range.
    """

    wants_sparse = True
    """Tells a model that its embeddings should have sparse gradients."""

    def __init__(self, params: Any, *, lr: float, beta2: float, eps: float, weight_decay: float) -> None:
        check_number("optimizer.lr", lr, least=0)
        check_number("optimizer.beta2", beta2, least=0, most=1 - 1e-9)
        check_number("optimizer.eps", eps, above=0)
        check_number("optimizer.weight_decay", weight_decay, least=0)
        super().__init__(params, {"lr": lr, "beta2": beta2, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move what has a gradient.

        Args:
            closure: makes the gradients, and gives the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        beta2, state = group["beta2"], self.state[parameter]
        if not state:
            state["step"] = 0
            state["mean_square"] = torch.zeros_like(parameter)
            if gradient.is_sparse:
                # of the parameter's kind of number, since that is what loading a state makes of it
                state["last_step"] = parameter.new_zeros(len(parameter))
        state["step"] = now = state["step"] + 1
        if not gradient.is_sparse:
            _adam(parameter, state["mean_square"].mul_(beta2), gradient, now, group)
            return
        summed, last_step = gradient.coalesce(), state["last_step"]
        num_rows = max(1, _PIECE * len(parameter) // parameter.numel()) if parameter.is_cpu else len(parameter)
        with _in_any_order():
            for rows, values in zip(summed.indices()[0].split(num_rows), summed.values().split(num_rows), strict=True):
                weights, mean_square = parameter.index_select(0, rows), state["mean_square"].index_select(0, rows)
                mean_square.mul_((beta2 ** (now - last_step[rows]))[:, None])
                last_step[rows] = float(now)
                _adam(weights, mean_square, values, now, group)
                parameter.index_copy_(0, rows, weights)
                state["mean_square"].index_copy_(0, rows, mean_square)


@contextmanager
def _in_any_order() -> Iterator[None]:
    """No row stands twice, so no order of writing them changes the result; to keep to one takes twice the time.

    `torch.use_deterministic_algorithms` sets the same switch, but takes half a millisecond a call.
    """
    asked = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(asked)


def _adam(weights: Tensor, mean_square: Tensor, gradient: Tensor, now: int, group: dict[str, Any]) -> None:
    """Step `now` of Adam in place, once the mean square before it has shrunk."""
    correction = (1 - group["beta2"] ** now) ** 0.5
    if group["weight_decay"]:
        gradient = gradient.add(weights, alpha=group["weight_decay"])
    mean_square.addcmul_(gradient, gradient, value=1 - group["beta2"])
    root = mean_square.sqrt().add_(group["eps"] * correction)
    weights.addcdiv_(gradient, root, value=-group["lr"] * correction)
