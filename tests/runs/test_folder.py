"""The folder of a run: its record, its name, who may write into it, and what is refused before it."""

from functools import partial
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from segue.errors import InputError
from segue.runs.folder import (
    RunRecord,
    as_dict,
    check_choices,
    digest,
    is_resumable,
    lock_folder,
    parameters,
    record_beginning,
    refuse_used_folder,
    setup_name,
)
from segue.runs.provenance import provenance
from tests.contracts.building import composed


@pytest.mark.parametrize(
    ("name", "model", "alpha", "recipe", "overrides", "swept"),
    [
        ("convex α=0.9", "convex", 0.9, "shares", ["model=convex", "model.alpha=0.9", "seed=1"], []),
        ("contextual", "contextual", None, "shares", ["loss=bce"], []),
        ("track α=1 published", "track", 1.0, "published", ["experiment=published"], ["model"]),
        (
            "convex α=0.3333 loss=bce lr=0.001",
            "convex",
            1 / 3,
            "shares",
            ["model.alpha=0.33333333", "loss=bce", "optimizer.lr=1e-3", "trainer.max_epochs=3", "seed=2"],
            ["model.alpha", "loss", "optimizer.lr", "seed"],
        ),
        ("mean α=learned decay=0.1", "mean", "learned", "shares", ["+optimizer.decay=0.1"], ["optimizer.decay"]),
    ],
)
def test_a_set_up_is_named_by_what_tells_it_apart_in_its_sweep(
    name: str, model: str, alpha: float | str | None, recipe: str, overrides: list[str], swept: list[str]
) -> None:
    setup = {"model": model, "alpha": alpha, "recipe": recipe, "overrides": overrides, "swept": swept}
    assert setup_name(**setup, context="last") == name  # type: ignore[arg-type]  # parameters of the test


@pytest.mark.parametrize(
    "words", [("model=gru4rec",), ("model=gru4rec", "context=session"), ("model=convex", "context=gru4rec")]
)
def test_a_model_of_the_order_has_one_name(words: tuple[str, ...]) -> None:
    found, usual = ({**composed(*of), "hydra": None} for of in (words, ("model=gru4rec",)))
    assert digest(as_dict(OmegaConf.create(found))) == digest(as_dict(OmegaConf.create(usual)))
    assert named(*words) == "gru4rec α=learned"


def test_another_context_or_head_is_named_beside_the_order() -> None:
    assert named("model=gru4rec", "context=listener") == "gru4rec α=learned context=listener"
    assert named("model=track", "context=gru4rec") == "track α=1 context=gru4rec"


def named(*words: str) -> str:
    config = composed(*words)
    choices = config.hydra.runtime.choices
    return setup_name(
        model=choices.model,
        alpha=config.model.alpha,
        recipe=choices.recipe,
        context=choices.context,
        overrides=words,
        swept=[],
    )


def test_a_digest_does_not_see_where_a_run_is_kept() -> None:
    config = {"model": {"dim": 3}, "seed": 1, "run_dir": "a", "logger": {"tracking_uri": "x"}, "resume": None}
    assert digest(config) == digest({**config, "run_dir": "b", "logger": None, "resume": True, "parent_run_id": "7"})
    assert digest(config) != digest({**config, "seed": 2})
    assert digest(config) != digest({**config, "model": {"dim": 4}})


def test_a_folder_is_held_by_one_at_a_time_and_no_trace_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    refused = pytest.raises(InputError, match=r"holds a run already, which another process is writing")
    with lock_folder(folder), refused, lock_folder(folder):
        pass
    with lock_folder(folder):
        pass
    assert list(folder.iterdir()) == []


def test_what_was_begun_is_read_back(tmp_path: Path) -> None:
    begun = RunRecord(overrides=["model=track"], mlflow_run_id="abc", data_digest="0f")
    begun.write(tmp_path)
    assert RunRecord.read(tmp_path) == begun
    assert is_resumable(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run.json is damaged; start the run again"):
        RunRecord.read(tmp_path)
    with pytest.raises(InputError, match=r"nowhere: no run was begun there"):
        RunRecord.read(tmp_path / "nowhere")


def test_parameters_are_what_was_decided_and_not_what_follows_from_it() -> None:
    config = OmegaConf.create(
        {
            "seed": 3,
            "run_dir": "/x",
            "swept": ["seed"],
            "model": {"fixed_alpha": 0.5, "alpha": "${.fixed_alpha}"},
            "ranker": {"scorer": "${model}", "_target_": "a.B"},
            "callbacks": {"export": {"path": "${run_dir}/r.jsonl", "k": 50}, "plots": {"seed": "${seed}"}},
            "datamodule": {"path": "${oc.env:HOME,x}/yes"},
        }
    )
    assert parameters(config) == {
        "seed": 3,
        "model.fixed_alpha": 0.5,
        "model.alpha": 0.5,
        "ranker._target_": "a.B",
        "callbacks.export.k": 50,
        "datamodule.path": config.datamodule.path,
    }


def test_a_config_carries_where_it_came_from_and_is_never_overwritten(tmp_path: Path) -> None:
    config = OmegaConf.create({"run_dir": str(tmp_path / "run"), "seed": 3, "name": "α"})
    begin = partial(record_beginning, words=["resume=x", "seed=3"], data_digest="d0", mlflow_run_id=None)
    begin(config, is_resumed=False)
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert yaml.safe_load(text) == config
    for name in provenance():
        assert f"# {name}: " in text
    assert RunRecord.read(tmp_path / "run").overrides == ["seed=3"]
    with pytest.raises(InputError, match=r"holds a run already; .* choose another folder with hydra.run.dir"):
        begin(config, is_resumed=False)
    begin(config, is_resumed=True)


BEGINNING = ["config.yaml", "run.json", "uncommitted.diff", "rejected.jsonl"]


def fail(folder: Path, error: type[BaseException], *written: str) -> set[str]:
    """What is in the folder of a run that fails after it has written these files."""
    for name in written:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    with pytest.raises(error), lock_folder(folder):
        raise error
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_failed_before_it_learned_anything_leaves_its_folder_to_another(tmp_path: Path) -> None:
    assert fail(tmp_path, InputError, *BEGINNING) == {"rejected.jsonl"}
    refuse_used_folder(tmp_path)


@pytest.mark.parametrize("learned", ["checkpoints/last.ckpt", "lists/rows.npy"])
def test_a_run_that_failed_later_keeps_its_folder_for_resuming(tmp_path: Path, learned: str) -> None:
    assert fail(tmp_path, InputError, *BEGINNING, learned) == {*BEGINNING, learned}


def test_a_run_that_was_interrupted_keeps_its_folder(tmp_path: Path) -> None:
    assert fail(tmp_path, KeyboardInterrupt, *BEGINNING) == {*BEGINNING}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("model=convex", "recipe=counting"), "recipe=counting has no values for model=convex"),
        (("model=rules", "+optimizer.lr=1"), "optimizer cannot be used with model=rules, which has no gradients"),
        (("context=last", "model=gru4rec"), "model=gru4rec reads the order of the session; leave context=last out"),
        (("model=gru4rec", "context.encoder.kind=ligr"), "kind=ligr is not that of gru4rec, which is gru"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(words: tuple[str, ...], line: str) -> None:
    config = composed(*words)
    choices = config.hydra.runtime.choices
    with pytest.raises(InputError, match=line):
        check_choices(config, model=choices.model, recipe=choices.recipe, context=choices.context)
