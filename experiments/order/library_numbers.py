"""Scores of a network of a library with random weights, in the Python of that library; `library.py` starts it.

    <its Python> library_numbers.py recbole numbers.npz

It imports nothing of `src/`, which needs another version of pandas.
"""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

NUM_TRACKS, NUM_SESSIONS, LENGTH, WIDTH, DIM, BLOCKS = 300, 40, 12, 24, 16, 2


def sessions() -> tuple[torch.Tensor, torch.Tensor]:
    """Tracks of sessions, counted from 1, oldest first and 0 after the newest; and their number."""
    length = torch.randint(2, LENGTH + 1, (NUM_SESSIONS,))
    tracks = torch.randint(1, NUM_TRACKS + 1, (NUM_SESSIONS, LENGTH))
    return tracks * (torch.arange(LENGTH) < length[:, None]), length


def of_recbole() -> dict[str, Any]:
    """GRU4Rec of RecBole: its scores of all tracks, and its loss, cross entropy over all tracks."""
    from recbole.config import Config
    from recbole.model.sequential_recommender import GRU4Rec

    own = {"embedding_size": WIDTH, "hidden_size": DIM, "num_layers": 1, "dropout_prob": 0.3, "loss_type": "CE"}
    config_dict = {**own, "train_neg_sample_args": None, "use_gpu": False}
    config = Config(model="GRU4Rec", dataset="sessions", config_dict=config_dict)
    model = GRU4Rec(config, SimpleNamespace(num=lambda _: 1 + NUM_TRACKS)).eval()
    torch.nn.init.normal_(model.dense.bias)
    (tracks, length), following = sessions(), torch.randint(1, NUM_TRACKS + 1, (NUM_SESSIONS,))
    asked = {model.ITEM_SEQ: tracks, model.ITEM_SEQ_LEN: length, model.POS_ITEM_ID: following}
    return {
        "tracks": tracks,
        "vectors": model.item_embedding.weight,
        "input": model.gru_layers.weight_ih_l0.T,
        "state": model.gru_layers.weight_hh_l0.T,
        "output": model.dense.weight.T,
        "output_bias": model.dense.bias,
        "scores": model.full_sort_predict(asked)[:, 1:],
        "following": following,
        "loss": model.calculate_loss(asked),
    }


def of_rectools() -> dict[str, Any]:
    """Blocks of LiGR of RecTools: what they give at the newest track of each session."""
    from rectools.models.nn.transformers.ligr import LiGRLayers

    layers = LiGRLayers(BLOCKS, WIDTH, n_heads=1, dropout_rate=0.2, ff_factors_multiplier=2).eval()
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for block in layers.transformer_blocks:  # ours has no constant there
            block.multi_head_attn.in_proj_bias.zero_()
            block.multi_head_attn.out_proj.bias.zero_()
    (tracks, length), vectors = sessions(), torch.randn(NUM_TRACKS + 1, WIDTH)
    is_later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    values = layers(vectors[tracks], None, is_later, None)[torch.arange(NUM_SESSIONS), length - 1]
    found: dict[str, Any] = {"tracks": tracks, "vectors": vectors, "values": values}
    for nth, block in enumerate(layers.transformer_blocks):
        gates, norms = (block.gating_linear_1, block.gating_linear_2), (block.layer_norm_1, block.layer_norm_2)
        fed = block.feed_forward
        numbers = {
            "scale": torch.stack([one.weight for one in norms]),
            "shift": torch.stack([one.bias for one in norms]),
            "attention": block.multi_head_attn.in_proj_weight.T,
            "mix": block.multi_head_attn.out_proj.weight.T,
            "up": torch.cat([fed.ff_linear_1.weight, fed.ff_linear_3.weight]).T,
            "down": fed.ff_linear_2.weight.T,
            "gates": torch.stack([one.weight.T for one in gates]),
            "gates_bias": torch.stack([one.bias for one in gates]),
        }
        found |= {f"{nth}_{name}": number for name, number in numbers.items()}
    return found


LIBRARIES: dict[str, Callable[[], dict[str, Any]]] = {"recbole": of_recbole, "rectools": of_rectools}


def main() -> None:
    """Write the numbers of a library."""
    torch.manual_seed(0)
    found = LIBRARIES[sys.argv[1]]()
    arrays: dict[str, Any] = {name: np.ascontiguousarray(one.detach().numpy()) for name, one in found.items()}
    np.savez(sys.argv[2], **arrays)


if __name__ == "__main__":
    main()
