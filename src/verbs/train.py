"""From event logs or playlists to a tracked MLflow run: checkpoint, metrics, `recommendations.jsonl`."""

import inspect
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from segue.atomic import write_record
from segue.datamodules.source_choice import RecipeChoice, check_source_choice, option_of
from segue.errors import InputError
from segue.reports.console import console, show_lines
from segue.reports.tables import frame_table
from segue.runs.folder import (
    REFIT,
    as_dict,
    lock_folder,
    refuse_used_folder,
    setup_name,
    short_run_name,
)
from segue.runs.garbage import quick_imports
from segue.runs.phases import PhaseClock
from segue.runs.provenance import command_line, provenance
from segue.runs.resume import check_resumed_targets, named_run, run_to_resume, words_of_run
from segue.runs.targets import read_config
from segue.runs.tracking.named_runs import folder_of, join_sweep, same_runs
from segue.settings import Setting, settings
from segue.verbs.sweeps.jobs import Sweep
from segue.verbs.sweeps.search import Search
from segue.verbs.terminal.entry import verb
from segue.verbs.terminal.hydra_parts import compose_again
from segue.verbs.terminal.quiet import silence_libraries
from segue.verbs.terminal.words import renamed
from segue.verbs.training.ddp import apart, check_processes, is_first, leave
from segue.verbs.training.next_steps import (
    BetterModel,
    FinishedRun,
    added_report,
    share_learned,
    training_report,
)

if TYPE_CHECKING:
    from segue.datamodules.pair_datamodule import PairDataModule
    from segue.models.ranker import Ranker
    from segue.runs.resume import PreviousRun
    from segue.verbs.training.choosing import Choice

_Part = Annotated[
    float, Setting("batches of an epoch: their number or share", above=0, hint="a run is trained, validated and tested")
]
_SEARCH = {"search=": "hydra/sweeper=", "search.": "hydra.sweeper."}


_recipe_of_data = partial(RecipeChoice, compares=True)


def _words(words: list[str]) -> list[str]:
    return renamed(words_of_run(words, folder_of), _SEARCH)


@verb("train", option_of=option_of, rewrite=_words, choose=_recipe_of_data, sweepers=[Sweep])
def read_data(config: DictConfig) -> "tuple[PairDataModule, dict[str, Any]]":
    """Read and print the data of a training run, and do nothing else.

    Returns:
        The data in splits, and the settings of `callbacks.ranking`.
    """
    with console.status("reading events"):
        datamodule: PairDataModule = instantiate(config.datamodule, _convert_="all")
        datamodule.prepare_data()
        datamodule.setup("fit")
    _show_data(datamodule)
    return datamodule, as_dict(config.callbacks.ranking)


def _show_data(datamodule: "PairDataModule") -> list[str]:
    console.print(frame_table(datamodule.summary(), title=datamodule.path))
    remarks = datamodule.remarks()
    for line in remarks:
        console.print(line, soft_wrap=True, markup=False)
    return remarks


def _is_job() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


@verb("train", option_of=option_of, rewrite=_words, choose=_recipe_of_data, sweepers=[Sweep, Search])
def train(config: DictConfig) -> float:
    """Fit, test the best checkpoint, export and log; or resume a run that was stopped, or add new tracks to one.

    Returns:
        The best value of the monitored metric, for a search.
    """
    _check_search()
    if config.add is not None or config.catalogue is not None:
        return _add(config)
    check_resumed_targets(config)
    clock = PhaseClock(of_process=not _is_job())
    silence_libraries()
    trainer = config.trainer
    check_trainer(**{name: trainer[name] for name in inspect.signature(check_trainer).parameters if name in trainer})
    check_processes(config, is_job=_is_job(), is_auto=_is_auto())
    with apart(config):
        with quick_imports():
            setup, named = _check_before_data(config)
        clock.end("start")
        return _train(config, setup, named, clock)


def _check_search() -> None:
    search = HydraConfig.get().runtime.choices["hydra/sweeper"]
    if search != "jobs" and not _is_job():
        words = renamed(command_line()[1:], {new: old for old, new in _SEARCH.items()})
        raise InputError(f"search={search} starts many runs and needs -m: python train.py -m {shlex.join(words)}")


@settings("trainer")
def check_trainer(
    *,
    devices: Annotated[int, Setting("processes on each machine", least=1)],
    num_nodes: Annotated[int, Setting("machines; more than one needs torchrun on each", least=1)] = 1,
    max_epochs: Annotated[int, Setting("epochs, at most", least=1)],
    limit_train_batches: _Part = 1.0,
    limit_val_batches: _Part = 1.0,
    limit_test_batches: _Part = 1.0,
) -> None:
    """Refuse settings of Lightning's trainer with which it would do nothing, or run without end.

    Raises:
        InputError: one is out of range.
    """


def _train(config: DictConfig, setup: str, named: "PreviousRun | None", clock: PhaseClock) -> float:
    datamodule, words = _data(config), list(HydraConfig.get().overrides.task)
    if (day := datamodule.source.read_on) is not None and datamodule.dropped.get("until"):
        # written into the run, which then has the same data on any day
        config.datamodule.policies.until = day
        words = [*words, f"datamodule.policies.until={day}"]
    choice = None
    if _is_auto():
        choice, words = _choose(config, datamodule, words)
        config = compose_again(words)
        setup, named = _check_before_data(config)
        datamodule.adjust(config.datamodule)
        clock.end("choice")
    same = same_runs(config, datamodule.digest()) if config.resume is True else []
    if previous := run_to_resume(named, same, data=Path(datamodule.path), data_digest=datamodule.digest()):
        join_sweep(config, previous)
        is_left = config.refit == "all" and not (previous.run_dir / REFIT).is_file()  # the refit that is asked for
        if previous.value is not None and not is_left:
            name = short_run_name(str(previous.run_id))
            console.print(f"{config.run_name}: done already, {name} in {previous.run_dir}", soft_wrap=True)
            return previous.value
        if is_first(config):
            config.run_dir = str(previous.run_dir)
    else:
        refuse_used_folder(Path(config.run_dir))
    with lock_folder(Path(config.run_dir), is_resumed=previous is not None):
        return _run(config, datamodule, previous, setup, words, clock, choice)


def _is_auto() -> bool:
    return bool(HydraConfig.get().runtime.choices["recipe"] == "auto")


def _choose(config: DictConfig, datamodule: "PairDataModule", words: list[str]) -> "tuple[Choice | None, list[str]]":
    """The comparison of `recipe=auto`, and the words of the command line with what it chose."""
    from segue.verbs.training.choosing import choose, without_auto

    if (choice := choose(datamodule, config, words, partial(compose, HydraConfig.get().job.config_name))) is not None:
        chosen = choice.best.words
    else:
        chosen = f"recipe={'playlists' if datamodule.vocabulary.mean_played_ratio is None else 'shares'}"
        console.print(f"recipe       {chosen}: validation has too few sessions to compare recipes", soft_wrap=True)
    return choice, [*without_auto(words), *chosen.split()]


def _better(
    config: DictConfig,
    model: "Ranker",
    datamodule: "PairDataModule",
    choice: "Choice | None",
    words: list[str],
    clock: PhaseClock,
) -> BetterModel | None:
    """The counting model that validates better than the trained one, on data of the user's."""
    is_own = HydraConfig.get().runtime.choices["datamodule"].startswith("table")
    if _is_job() or config.trainer.fast_dev_run or (choice is None and not is_own):
        return None
    from segue.verbs.training.choosing import better_than, rivals_of

    choice = choice or rivals_of(datamodule, config, words, partial(compose, HydraConfig.get().job.config_name))
    better = None if choice is None else better_than(model, choice, datamodule)
    clock.end("choice")
    return better


def _add(config: DictConfig) -> float:
    """Add the new tracks of a catalogue to a finished run."""
    if _is_job():
        raise InputError("add= adds tracks to one run; leave out -m")
    silence_libraries()
    with console.status("adding tracks"), quick_imports():
        from segue.verbs.training.adding import add_tracks

        added = add_tracks(config, HydraConfig.get().overrides.task)
    show_lines(added_report(added, config.run_dir).items())
    return float("nan")


def _check_before_data(config: DictConfig) -> "tuple[str, PreviousRun | None]":
    """Refuse what is known to be wrong from the config alone, before data are read, which may take minutes.

    Returns:
        The name of the set-up, and the run that `resume=` names.

    Raises:
        InputError: the choices do not fit each other, a setting of the trainer, the monitor or the model is out of
            range, or a run cannot be resumed.
    """
    from segue.runs.folder import check_choices

    hydra = HydraConfig.get()
    choices = {group: hydra.runtime.choices[group] for group in ("model", "recipe", "context")}
    check_choices(config, **choices)
    setup = setup_name(
        **choices,
        alpha=config.model.get("alpha"),
        parts=config.model.get("parts"),
        overrides=list(hydra.overrides.task),
        swept=config.swept,
    )
    config.run_name = config.run_name or f"{setup} seed={config.seed}"
    named = named_run(config)
    if named is None:  # a run that goes on has its source
        check_source_choice(hydra.runtime.choices["datamodule"], hydra.overrides.task)
    _check_settings(config)
    if config.get("logger"):
        import mlflow  # noqa: F401  # needed later; here it is imported quickly
    return setup, named


def _check_settings(config: DictConfig) -> None:
    from segue.callbacks.ranking_metrics import check_monitor_mode
    from segue.datamodules.sources import example_of

    instantiate(config.ranker, _convert_="all")(vocabulary=example_of(config.datamodule))
    check_monitor_mode(config.monitor.metric, config.monitor.mode)


def _data(config: DictConfig) -> "PairDataModule":
    folder = Path(str(config.datamodule.path))
    already_there = set(folder.glob("*")) if folder.is_dir() else set()
    with console.status("preparing"):
        datamodule: PairDataModule = instantiate(config.datamodule, _convert_="all")
    datamodule.prepare_data()
    if config.datamodule.get("prepare") is not None and Path(datamodule.path) != folder:
        done = "read from" if Path(datamodule.path) in already_there else "written to"
        console.print(f"simulated    logs {done} {datamodule.path}", soft_wrap=True, markup=False)
    with console.status("reading events"):
        datamodule.setup("fit")
    if config.get("listener") is not None:
        check_pasts(datamodule)
    return datamodule


def check_pasts(datamodule: "PairDataModule") -> None:
    """Refuse data in which no listener has a past.

    Raises:
        InputError: they have no clock, or no listener has two sessions.
    """
    if datamodule.data.timeline is None:
        lacks = "no listener with two sessions" if datamodule.sessions.has_clock else "no timestamps"
        raise InputError(
            f"context=listener looks at what a listener heard in earlier sessions, and {datamodule.path} has {lacks}; "
            "use context=session, or give datamodule.columns.user and datamodule.columns.timestamp"
        )


def _run(
    config: DictConfig,
    datamodule: "PairDataModule",
    previous: "PreviousRun | None",
    setup: str,
    words: list[str],
    clock: PhaseClock,
    choice: "Choice | None",
) -> float:
    from pytorch_lightning import Trainer, seed_everything
    from pytorch_lightning.callbacks import Checkpoint

    from segue.callbacks.assembly import build_callbacks
    from segue.callbacks.interrupt import Interrupt
    from segue.callbacks.run_context import RunContext, RunHistory
    from segue.datamodules.describing.facts import profile_of
    from segue.runs.folder import record_beginning
    from segue.runs.tracking.logger import build_logger, run_logger, start_run
    from segue.runs.tracking.store import PRUNED, runs_page
    from segue.verbs.training.model_card import CardData, write_model_card
    from segue.verbs.training.refit import begun, decided_by, epochs_of_refit, is_refitted, refit

    hydra, run_dir = HydraConfig.get(), Path(config.run_dir)
    seed_everything(config.seed, workers=True, verbose=False)
    remarks = _show_data(datamodule)
    if choice is not None:
        console.print(choice.table())
    model: Any = instantiate(config.ranker, _convert_="all")(vocabulary=datamodule.vocabulary)
    history, chosen = RunHistory(clock), instantiate(config.callbacks, _convert_="all")
    context = RunContext(datamodule=datamodule, history=history, describe=profile_of)
    callbacks, after_test = build_callbacks(chosen, context, monitor=config.monitor.metric)
    pruning = None
    if config.trial:
        from segue.verbs.sweeps.pruning import Pruning

        pruning = Pruning(**config.trial, monitor=config.monitor.metric)
        callbacks.append(pruning)
    is_exported = config.callbacks.get("export") is not None
    if previous and config.refit == "auto" and is_exported:  # it exports what it would have exported
        config.refit = read_config(previous.run_dir / "config.yaml").get("refit", "none")
    is_again = is_refitted(datamodule, refit=config.refit, is_job=_is_job(), is_exported=is_exported)
    config.refit = "all" if is_again else "none"
    clock.end("data")
    run_id, checkpoint = (previous.run_id, previous.checkpoint) if previous else (None, None)
    data_digest = datamodule.digest()
    parts = {
        "callbacks": callbacks,
        "logger": build_logger(config, run_id) or False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
    }
    trainer: Trainer = instantiate(config.trainer, **parts, _convert_="all")
    if logger := run_logger(trainer):
        source = hydra.runtime.choices["datamodule"].removesuffix("_playlists")
        start_run(logger, config, setup=setup, source=source, data_digest=data_digest)
        run_id = logger.run_id
    record_beginning(
        config, words=words, data_digest=data_digest, mlflow_run_id=run_id, is_resumed=previous is not None
    )
    clock.end("tracking")

    trainer.fit(model, datamodule, ckpt_path=checkpoint, weights_only=True)
    if config.refit == "all" and not any(isinstance(one, Interrupt) and one.stopped for one in callbacks):
        try:
            whole, limit = datamodule.as_training(), config.trainer.get("limit_train_batches")
            num_epochs = epochs_of_refit(history.best_epoch(trainer) + 1, datamodule, whole, limit=limit)
            decided = decided_by(trainer, model)
            path = trainer.strategy.broadcast(begun(run_dir, num_epochs, decided))
            after_test.refitted = refit(config, whole, decided, history.epochs[:num_epochs], checkpoint=path)
        except (InputError, OSError) as error:  # what was trained is not lost
            console.print(f"refit        none, the tested model is exported: {error}", soft_wrap=True, markup=False)
        clock.end("refit")
    leave(trainer)
    if trainer.world_size > 1:
        trainer = instantiate(config.trainer, **parts, devices=1, num_nodes=1, strategy="auto", _convert_="all")
    if pruning is not None and pruning.pruned:  # its test and its recommendations are not needed
        if logger:
            logger.log_tags({PRUNED: "true"})
            logger.finish()
        return float("nan")
    best = "best" if trainer.checkpoint_callback and not config.trainer.fast_dev_run else None
    # after it, callbacks export lists and vectors (`callbacks/assembly.py`, `models/export.py`)
    trainer.test(model, datamodule, ckpt_path=best, weights_only=True, verbose=False)
    metrics, more_files = history.metrics(), []
    if choice is not None:
        more_files.append(run_dir / "choice.json")
        write_record(choice.record(), more_files[0])
    run_id = logger.run_id if logger else None
    metrics_file = history.write(run_dir, mlflow_run_id=run_id)
    clock.end("tracking")
    better = _better(config, model.eval(), datamodule, choice, words, clock)
    finished = FinishedRun(
        config=config,
        choices=dict(hydra.runtime.choices),
        run_id=run_id,
        runs_page=runs_page(str(logger.experiment_id)) if logger else None,
        metrics=metrics,
        examples=after_test.examples,
        seconds=clock.seconds,
        is_job=_is_job(),
        better=better,
        learned=share_learned(datamodule.summary(), is_by_time=datamodule.is_by_time),
        refit=None if after_test.refitted is None or after_test.exported is None else after_test.refitted.record(),
    )
    data = CardData(
        path=datamodule.path,
        digest=data_digest,
        sizes=datamodule.summary(),
        span=datamodule.data.span(),
        remarks=remarks,
    )
    written = metrics_file, write_model_card(finished, data, provenance())
    if logger:
        for file in (*written, *more_files):
            logger.log_file(file)
        clock.end("tracking")
        logger.log_metrics({f"time/{phase}_s": seconds for phase, seconds in clock.seconds.items()})
        logger.finish()
    clock.end("tracking")

    for line in model.describe():
        console.print(line, soft_wrap=True, markup=False)
    for block in training_report(finished):
        console.print(block, soft_wrap=isinstance(block, str), markup=False)
    return metrics[config.monitor.metric]
