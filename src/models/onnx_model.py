"""A module of torch as an ONNX model."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def onnx_of(module: nn.Module, made: str, **given: tuple[Tensor, Sequence[str]]) -> Any:
    """Write a module as an ONNX model, a `ModelProto`. This takes seconds.

    Args:
        module: on the CPU, and not in training.
        made: name of its output.
        given: an example of each input, in the order of the arguments of the module, and the names of those first
            dimensions that may have any size; in the example they have at least 2.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which is not needed
    examples, axes = zip(*given.values(), strict=True)
    names: dict[str, Any] = {"input_names": [*given], "output_names": [made]}
    shapes = tuple(dict(enumerate(one)) for one in axes)
    with warnings.catch_warnings(action="ignore"):  # torch of what it deprecates
        program: Any = torch.onnx.export(module, examples, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
    model = program.model_proto
    for node in model.graph.node:
        node.ClearField("metadata_props")  # paths of this machine
    return model
