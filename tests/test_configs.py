"""Every config composes and builds; what each promises stands in it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from segue.catalog import example_vocabulary
from segue.errors import InputError
from segue.models.baselines.module import Baseline
from segue.models.pair_ranker import PairRanker
from tests.conftest import make_vocabulary
from tests.contracts.building import CONF, composed, names
from tests.contracts.test_heads import HEADS as HEADS_OF_PAIRS
from tests.contracts.test_heads import OF_ORDER
from tests.contracts.test_rankers import BASELINES

HEADS = sorted([*HEADS_OF_PAIRS, *OF_ORDER])
MODELS = sorted([*HEADS, *BASELINES])
"""Without the mixture, which needs finished runs. The tests of contracts look that none is missing."""
SOURCES = [name for name in names("datamodule") if name not in ("default", "simulated")]
PUBLISHED: dict[str, Any] = {"track": 1.0, "artist": 0.0, "mean": 0.5, "convex": 0.9, "contextual": None}
"""The shares of the five models of the report, or alpha."""


@pytest.mark.parametrize(
    ("model", "experiment"), [*((model, None) for model in MODELS), *((head, "published") for head in HEADS)]
)
def test_every_part_of_a_run_builds(
    model: str, experiment: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = composed(f"model={model}", *([f"experiment={experiment}"] if experiment else []))
    for part in ("datamodule", "callbacks", "logger"):
        instantiate(config[part], _convert_="all")
    instantiate(config.trainer, logger=False, _convert_="all")
    words = make_vocabulary([0, 0, 1], calendar=example_vocabulary().calendar)
    for vocabulary in (example_vocabulary(), words):
        built = instantiate(config.ranker, _convert_="all")(vocabulary=vocabulary)
        assert isinstance(built, Baseline if model in BASELINES else PairRanker)


@pytest.mark.parametrize("model", BASELINES)
def test_a_baseline_is_one_pass_judged_by_its_ranking_without_anything_of_gradients(model: str) -> None:
    config = composed(f"model={model}")
    assert not {"loss", "optimizer", "scheduler"} & config.keys()
    assert (config.trainer.max_epochs, config.monitor.metric, config.monitor.mode) == (1, "val/ndcg_at_10", "max")
    assert "alpha" not in config.model


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("model=rules", "experiment=published"), "^this recipe trains query and item vectors, which baselines and"),
        (("model=rules", "recipe=shares"), "mixtures do not have; leave out recipe= and experiment="),
        (("model=mixture", "recipe=playlists", "model.models={a: x, b: y}"), "^this recipe trains query and item vec"),
    ],
)
def test_a_recipe_for_another_kind_of_model_is_refused(words: tuple[str, ...], line: str) -> None:
    with pytest.raises(InputError, match=line):
        instantiate(composed(*words).ranker, _convert_="all")(vocabulary=make_vocabulary([0, 0, 1]))


RECIPES = {"botify": "shares", "simulated": "shares", "situnes": "shares", "yes": "radio", "polimi": "playlists"}


@pytest.mark.parametrize(
    ("source", "words", "context"),
    [
        *[(source, (), "Session" if source in ("yes", "polimi") else "LastTrack") for source in RECIPES],
        ("yes", ("context=last",), "LastTrack"),
        ("yes", ("model=rules",), "Session"),
        ("yes", ("model=vstan",), "Session"),
        ("simulated", ("experiment=published",), "LastTrack"),
        ("simulated", ("context=session",), "Session"),
    ],
)
def test_playlists_and_radio_have_the_session_and_one_word_names_the_last_track(
    source: str, words: tuple[str, ...], context: str
) -> None:
    assert composed(f"datamodule={source}", *words).context._target_.rpartition(".")[2] == context


@pytest.mark.parametrize("kind", ["gru", "ligr"])
@pytest.mark.parametrize("context", ["session", "listener"])
@pytest.mark.parametrize("turn", [1, -1])
def test_a_model_of_the_order_reads_it_whichever_session_is_named_and_where(kind: str, context: str, turn: int) -> None:
    words = [f"context={context}", "model=gru4rec" if kind == "gru" else "model=sasrec"]
    config = composed(*words[::turn])
    assert config.context.encoder.kind == kind
    assert config.datamodule.whole_sessions
    assert ("listener" in config) is (context == "listener")


@pytest.mark.parametrize("model", ["convex", "track", "artist", "contextual"])
def test_logs_with_shares_have_the_session_that_listeners_chose_with_every_head(model: str) -> None:
    words = ("datamodule=simulated", "context=session", f"model={model}")
    assert composed(*words).datamodule.history == composed(*words).context.max_length == 100
    context = instantiate(composed(*words).context)(example_vocabulary(), ["track", "artist", "tags"], learns=True)
    assert [context.decay(part) for part in ("track", "artist", "tags")] == [0.5, 1.0, 1.0]
    assert composed(*words, "context.decay=0.7", "context.max_length=20").context.decay == 0.7
    assert composed("datamodule=yes").context.max_length == 20


@pytest.mark.parametrize("source", RECIPES)
def test_each_source_can_be_described_without_what_only_training_needs(source: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("describe", ["run_dir=x", f"datamodule={source}"])
    assert config.get("context") is None
    assert config.datamodule.history == 0


@pytest.mark.parametrize(("source", "recipe"), RECIPES.items())
def test_each_source_names_its_recipe(source: str, recipe: str) -> None:
    assert composed(f"datamodule={source}").recipe.name == recipe


@pytest.mark.parametrize("source", ["botify", "yes"])
def test_one_word_names_another_recipe_than_that_of_the_source(source: str) -> None:
    assert composed(f"datamodule={source}", "recipe=published").recipe.name == "published"
    assert composed(f"datamodule={source}", "experiment=published").recipe.name == "published"
    assert composed(f"datamodule={source}", "model=rules").recipe.name == "counting"
    assert composed(f"datamodule={source}", "model.dim=64").model.dim == 64


def test_monitor_is_written_by_recipes_alone() -> None:
    files = {path: yaml.safe_load(path.read_text(encoding="utf-8")) or {} for path in CONF.rglob("*.yaml")}
    choosing = [path for path, config in files.items() if "/monitor" in str(config.get("defaults", ""))]
    assert {path.parent.name for path in choosing} == {"recipe"}
    assert not [path for path, config in files.items() if "monitor" in config and path.parent.name != "ranker"]


@pytest.mark.parametrize(("model", "share"), [("track", 1.0), ("artist", 0.0), ("mean", 0.5), ("convex", "learned")])
def test_the_heads_differ_in_their_shares_alone(model: str, share: Any) -> None:
    config = OmegaConf.to_container(composed(f"model={model}").model, resolve=True)
    convex = OmegaConf.to_container(composed("model=convex").model, resolve=True)
    assert isinstance(config, dict)
    assert isinstance(convex, dict)
    assert config["alpha"] == share
    ends = {"track_dropout": 0.0} if model in ("track", "artist") else {}  # it needs both tracks and artists
    assert {**config, "alpha": "learned"} == {**convex, **ends}


@pytest.mark.parametrize("model", PUBLISHED)
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
    assert config.model.alpha == PUBLISHED[model]
    assert (config.model.item_bias, config.model.dropout, config.model.get("track_dropout", 0.0)) == (False, 0.0, 0.0)


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_says_where_its_files_are_through_one_variable(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source.startswith(("table", "shards")):
        with pytest.raises(MissingMandatoryValue, match=r"datamodule\.path"):
            assert composed(f"datamodule={source}").datamodule.path
        return
    monkeypatch.setenv("SEGUE_DATA", "/data")
    assert composed(f"datamodule={source}").datamodule.path.startswith("/data/")
    monkeypatch.delenv("SEGUE_DATA")
    assert composed(f"datamodule={source}").datamodule.path.startswith("../shared/data/")


def test_runs_started_in_the_same_second_get_folders_of_their_own() -> None:
    config: DictConfig = composed()
    assert "%f" in OmegaConf.to_container(config.hydra.run, resolve=False)["dir"]  # type: ignore[index, call-overload]


def test_a_token_never_enters_the_record_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_TOKEN", "a secret")
    for source in (*SOURCES, "simulated"):
        assert "a secret" not in OmegaConf.to_yaml(composed(f"datamodule={source}").datamodule, resolve=True)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm", "ray"])
def test_a_sweep_can_be_given_to_every_launcher_that_is_installed(launcher: str) -> None:
    plugin = f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"
    if find_spec("hydra_plugins") is None or find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed; pip install -e '.[slurm,ray]'")
    config = composed(f"hydra/launcher={launcher}")
    assert config.hydra.launcher._target_.startswith(plugin)
