"""What several processes cannot train, in a line."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from segue.errors import InputError
from segue.verbs.training.ddp import check_processes

DDP = {"trainer": {"strategy": {}, "devices": 2, "num_nodes": 1}, "optimizer": {"_target_": "torch.optim.Adam"}}


@pytest.mark.parametrize(
    ("changes", "how", "world", "line"),
    [
        ({"trainer": {"strategy": None}}, {}, 1, "several processes train one run with trainer=ddp"),
        ({"trainer": {"strategy": None, "devices": 1}}, {}, 2, "several processes train one run with trainer=ddp"),
        ({}, {"is_job": True}, 2, "trainer=ddp trains one run in several processes, which a multirun (-m) cannot"),
        ({}, {"is_auto": True}, 2, "recipe=auto compares recipes in one process; with trainer=ddp name one"),
        ({}, {}, 4, "torchrun started 4 processes, and the trainer has 2; use trainer.devices="),
        ({"optimizer": None}, {}, 2, "trainer=ddp divides the pairs of a batch, and this model reads no batches"),
        ({"optimizer": {"_target_": "segue.models.row_adam.RowAdam"}}, {}, 2, "dense gradients; use optimizer=adam"),
        ({"resume": True}, {}, 2, "name it: resume=<run folder>"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    changes: dict[str, Any], how: dict[str, bool], world: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    config = OmegaConf.create({"resume": None, **DDP})
    config.merge_with(changes)
    with pytest.raises(InputError) as raised:
        check_processes(config, **{"is_job": False, "is_auto": False, **how})
    assert line in str(raised.value)
