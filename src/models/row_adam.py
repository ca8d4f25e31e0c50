"""An optimizer whose step time depends on the size of the batch and not on the size of the embedding tables."""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segue.settings import Setting, settings

# Numbers that are updated at once on a CPU. The rows and all intermediate results then fit into its cache, which
# halves the time.
_CHUNK_SIZE = 2**17


@settings("optimizer")
class RowAdam(Optimizer):
    """Adam without momentum (β₁ = 0). A step updates only those rows of a table that occur in the batch.

    Adam without momentum does not change a row whose gradient is zero. Only the mean square of that row decays, and
    this can be done later, when the row occurs in a batch. The result is therefore that of
    `torch.optim.Adam(betas=(0, beta2))`, at a cost that does not grow with the catalogue. The rows are read from sparse
    gradients. A dense gradient updates its whole parameter.

    Args:
        params: parameters, or parameter groups.

    Source:
        Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015, algorithm 1 with β₁ = 0.
    """

    uses_sparse_gradients = True
    """A model gives its embedding tables sparse gradients if its optimizer has this attribute."""

    def __init__(
        self,
        params: Any,
        *,
        lr: Annotated[float, Setting("learning rate", least=0)] = 1e-2,
        beta2: Annotated[
            float, Setting("decay of the mean square of the gradients in one step", least=0, most=1 - 1e-9)
        ] = 0.999,
        eps: Annotated[float, Setting("added to the root of the mean square", above=0)] = 1e-8,
        weight_decay: Annotated[
            float, Setting("this times the weights is added to the gradient, of embeddings in the batch alone", least=0)
        ] = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "beta2": beta2, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: computes the gradients and returns the loss; None if the gradients are there already.

        Returns:
            The loss that `closure` returned; None without a closure.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        beta2, state = group["beta2"], self.state[parameter]
        if not state:
            state.update(step=0, mean_square=torch.zeros_like(parameter))
            if gradient.is_sparse:
                # the dtype of the parameter, because loading a state converts to it
                state["last_step"] = parameter.new_zeros(len(parameter))
        state["step"] = now = state["step"] + 1
        if not gradient.is_sparse:
            _adam(parameter, state["mean_square"].mul_(beta2), gradient, now, group)
            return
        summed, last_step = gradient.coalesce(), state["last_step"]
        num_rows = max(1, _CHUNK_SIZE * len(parameter) // parameter.numel()) if parameter.is_cpu else len(parameter)
        for rows, values in zip(summed.indices()[0].split(num_rows), summed.values().split(num_rows), strict=True):
            weights, mean_square = parameter.index_select(0, rows), state["mean_square"].index_select(0, rows)
            mean_square.mul_((beta2 ** (now - last_step[rows]))[:, None])
            last_step[rows] = float(now)
            _adam(weights, mean_square, values, now, group)
            parameter.index_copy_(0, rows, weights)
            state["mean_square"].index_copy_(0, rows, mean_square)


def _adam(weights: Tensor, mean_square: Tensor, gradient: Tensor, now: int, group: dict[str, Any]) -> None:
    """Apply step `now` of Adam in place; the caller has already decayed the mean square."""
    correction = (1 - group["beta2"] ** now) ** 0.5
    if group["weight_decay"]:
        gradient = gradient.add(weights, alpha=group["weight_decay"])
    mean_square.addcmul_(gradient, gradient, value=1 - group["beta2"])
    weights.addcdiv_(gradient, mean_square.sqrt().add_(group["eps"] * correction), value=-group["lr"] * correction)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Divide the parameters of a model into groups for an optimizer. Only embeddings have weight decay.

    Weight decay of the other parameters would move alpha to ½, a scale to 1 and biases to 0. A module with a `rate` has
    a learning rate of its own, relative to that of the others.
    """
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    tables = [embedding.weight for embedding in embeddings if getattr(embedding, "decays", True)]
    with_rate = [module for module in model.modules() if hasattr(module, "rate")]
    apart = {id(p) for p in [*tables, *(p for module in with_rate for p in module.parameters())]}
    others = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    groups: list[dict[str, Any]] = [{"params": tables}]
    groups += [{"params": others, "weight_decay": 0.0}] if others else []
    return groups + [{"params": [*one.parameters()], "weight_decay": 0.0, "rate": one.rate} for one in with_rate]
