"""Every config composes and builds; what each promises stands in it."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.models.baselines.counting import Baseline
from src.models.pair_ranker import PairRanker
from src.terminal.messages import message
from tests.conftest import ROOT, make_vocabulary

CONF = ROOT / "conf"
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
BASELINES = ["als", "bpr", "item2vec", "neighbours", "popular", "rules", "sticky"]
VECTORS = ["als", "bpr", "item2vec"]
HEADS = [model for model in MODELS if model not in BASELINES]
ALL = sorted(path.stem for path in (CONF / "datamodule").glob("*.yaml") if path.stem != "default")
SOURCES = [name for name in ALL if name != "simulated"]


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=True)


def test_the_models_and_the_sources_are_there() -> None:
    assert HEADS == ["artist", "contextual", "convex", "mean", "track"]
    assert set(BASELINES) < set(MODELS)
    assert ALL == ["botify", "polimi", "simulated", "situnes", "yes"]


@pytest.mark.parametrize(
    ("model", "experiment"), [*((model, None) for model in MODELS), *((head, "published") for head in HEADS)]
)
def test_every_part_of_a_run_builds(model: str, experiment: str | None, tmp_path: Path) -> None:
    overrides = [f"model={model}", f"run_dir={tmp_path}", "run_name=test"]
    config = composed(*overrides, *([f"experiment={experiment}"] if experiment else []))
    for part in ("datamodule", "callbacks", "logger"):
        instantiate(config[part], _convert_="all")
    instantiate(config.trainer, logger=False, _convert_="all")
    built = instantiate(config.ranker, _convert_="all")(vocabulary=make_vocabulary([0, 0, 1]))
    assert isinstance(built, Baseline if model in BASELINES else PairRanker)


@pytest.mark.parametrize("model", BASELINES)
def test_a_baseline_is_one_pass_judged_by_its_ranking_without_anything_of_gradients(model: str) -> None:
    config = composed(f"model={model}")
    assert not {"loss", "optimizer", "scheduler"} & config.keys()
    assert (config.trainer.max_epochs, config.monitor.metric, config.monitor.mode) == (1, "val/ndcg_at_10", "max")
    assert not {"alpha", *(["dim"] if model not in VECTORS else [])} & config.model.keys()


@pytest.mark.parametrize("word", ["loss=mse", "optimizer=adam", "scheduler=plateau", "experiment=published"])
def test_what_only_pair_models_have_cannot_be_chosen_for_a_baseline(word: str) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed("model=rules", word)
    line = message(error.value)
    assert line is not None
    group = "loss" if word.startswith("experiment") else word.partition("=")[0]
    assert f"{group}= means nothing here: what else was chosen has none; leave it out" in line
    assert ("In 'experiment/published'" in line) == word.startswith("experiment")


@pytest.mark.parametrize(("model", "alpha"), [("track", 1.0), ("artist", 0.0), ("mean", 0.5), ("convex", "learned")])
def test_the_heads_differ_in_alpha_alone(model: str, alpha: float | str) -> None:
    config = OmegaConf.to_container(composed(f"model={model}").model, resolve=True)
    convex = OmegaConf.to_container(composed("model=convex").model, resolve=True)
    assert isinstance(config, dict)
    assert isinstance(convex, dict)
    assert config["alpha"] == alpha
    ignored = {"alpha": 0, "fixed_alpha": 0}
    assert {**config, **ignored} == {**convex, **ignored}


@pytest.mark.parametrize("model", HEADS)
def test_the_published_recipe_is_the_published_one(model: str) -> None:
    config = composed("experiment=published", f"model={model}", "run_dir=x", "run_name=x")
    assert config.loss._target_.endswith("MSELoss")
    assert config.optimizer._target_ == "torch.optim.Adam"
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (1e-2, 1e-5)
    assert config.scheduler._target_ == "torch.optim.lr_scheduler.ReduceLROnPlateau"
    assert (config.scheduler.patience, config.scheduler.mode) == (3, "min")
    assert (config.callbacks.early_stopping.patience, config.callbacks.early_stopping.monitor) == (5, "val/loss")
    assert (config.trainer.max_epochs, config.datamodule.batch_size) == (50, 4096)
    assert (config.datamodule.split, config.datamodule.pairing) == ("pair", "first")
    assert (config.model.dim, config.model.init_std) == (100, 1.0)
    assert config.callbacks.export.k == 50
    published = {"track": 1.0, "artist": 0.0, "mean": 0.5, "convex": 0.9, "contextual": None}
    assert config.model.alpha == published[model]
    assert (config.model.item_bias, config.model.dropout, config.model.track_dropout) == (False, 0.0, 0.0)


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_says_where_its_files_are_through_one_variable(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_DATA", "/data")
    assert composed(f"datamodule={source}").datamodule.path.startswith("/data/")
    monkeypatch.delenv("SEGUE_DATA")
    assert composed(f"datamodule={source}").datamodule.path.startswith("../shared/data/")


def test_runs_started_in_the_same_second_get_folders_of_their_own() -> None:
    config: DictConfig = composed()
    assert "%f" in OmegaConf.to_container(config.hydra.run, resolve=False)["dir"]  # type: ignore[index, call-overload]
