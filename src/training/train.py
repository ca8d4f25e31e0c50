"""From event logs or playlists to a tracked MLflow run: checkpoint, metrics, `recommendations.jsonl`."""

import inspect
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from segue.datamodules.source_choice import RecipeChoice, check_source_choice, option_of
from segue.errors import InputError
from segue.reports.next_steps import (
    BetterModel,
    FinishedRun,
    added_report,
    night_report,
    share_learned,
    training_report,
)
from segue.reports.tables import frame_table
from segue.runs.atomic import write_record
from segue.runs.folder import (
    NIGHT,
    REFIT,
    as_dict,
    forget_unfinished_night,
    is_unfinished_night,
    lock_folder,
    refuse_used_folder,
    setup_name,
    short_run_name,
)
from segue.runs.garbage import quick_imports
from segue.runs.phases import PhaseClock
from segue.runs.provenance import command_line, provenance
from segue.runs.resume import check_resumed_targets, named_run, refuse_another_recipe, run_to_resume, words_of_run
from segue.runs.targets import read_config
from segue.settings import Setting, settings
from segue.sweeps.jobs import IN_A_MULTIRUN, Sweep
from segue.sweeps.search import Search
from segue.terminal.console import console, show_lines
from segue.terminal.entry import verb
from segue.terminal.hydra_parts import compose_again
from segue.terminal.quiet import silence_libraries
from segue.terminal.words import renamed
from segue.tracking.named_runs import folder_of, join_sweep, same_runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.datamodules.split_datamodule import SplitDataModule
    from segue.models.contracts import Loss, Ranker
    from segue.runs.resume import PreviousRun
    from segue.training.choosing import Choice
    from segue.training.night import Night
    from segue.training.processes import Processes

_Part = Annotated[
    float, Setting("batches of an epoch: their number or share", above=0, hint="a run is trained, validated and tested")
]
_SEARCH = {"search=": "hydra/sweeper=", "search.": "hydra.sweeper."}


_recipe_of_data = partial(RecipeChoice, compares=True)


def _words(words: list[str]) -> list[str]:
    return renamed(words_of_run(words, folder_of), _SEARCH)


@verb("train", option_of=option_of, rewrite=_words, choose=_recipe_of_data, sweepers=[Sweep])
def read_data(config: DictConfig) -> "tuple[SplitDataModule, dict[str, Any]]":
    """Read and print the data of a training run, and do nothing else.

    Returns:
        The data in splits, and the settings of `callbacks.ranking`.
    """
    with console.status("reading events"):
        datamodule: SplitDataModule = instantiate(config.datamodule, _convert_="all")
        datamodule.prepare_data()
        datamodule.setup("fit")
    _show_data(datamodule)
    return datamodule, as_dict(config.callbacks.ranking)


def _show_data(datamodule: "SplitDataModule", *, has_table: bool = True) -> list[str]:
    if has_table:
        console.print(frame_table(datamodule.summary(), title=datamodule.path))
    remarks = datamodule.remarks()
    for line in remarks:
        console.print(line, soft_wrap=True, markup=False)
    return remarks


def _is_job() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


@verb("train", option_of=option_of, rewrite=_words, choose=_recipe_of_data, sweepers=[Sweep, Search])
def train(config: DictConfig) -> float:
    """Fit, test the best checkpoint, export and log; or resume a run that was stopped, go on with one that is finished,
    or add new tracks to one.

    Returns:
        The best value of the monitored metric, for a search.
    """
    _check_search()
    if config.add is not None or config.catalogue is not None:
        return _add(config)
    check_resumed_targets(config)
    from segue.training.processes import processes_of

    clock = PhaseClock(of_process=not _is_job())
    silence_libraries()
    _check_devices(config)
    devices, num_machines = config.trainer.devices, config.trainer.get("num_nodes", 1)
    is_shared = config.trainer.get("strategy") is not None
    again = [sys.executable, "-m", "segue", "train", *command_line()[1:]]
    with processes_of(devices=devices, num_machines=num_machines, is_shared=is_shared, again=again) as processes:
        if not processes.is_first:
            config.merge_with({"run_dir": processes.new_folder(), "resume": None, "logger": None})
        with quick_imports():
            setup, named = _check_before_data(config)
        clock.end("start")
        if config["from"] is not None:
            return _learn_more(config, setup, clock, processes)
        return _train(config, setup, named, clock, processes)


def _check_search() -> None:
    search = HydraConfig.get().runtime.choices["hydra/sweeper"]
    if search != "jobs" and not _is_job():
        words = renamed(command_line()[1:], {new: old for old, new in _SEARCH.items()})
        raise InputError(f"search={search} starts many runs and needs -m: python train.py -m {shlex.join(words)}")


def _check_devices(config: DictConfig) -> None:
    trainer = config.trainer
    check_trainer(**{name: trainer[name] for name in inspect.signature(check_trainer).parameters if name in trainer})
    is_shared = trainer.get("strategy") is not None
    if is_shared and _is_job():
        raise InputError(IN_A_MULTIRUN)
    if is_shared == (_num_processes(config) < 2):
        remedy = "leave out trainer=ddp for one process" if is_shared else "trainer=ddp trains in several processes"
        least = "at least 2 with trainer=ddp" if is_shared else "1 without trainer=ddp"
        raise InputError(f"trainer.devices must be {least}, got {trainer.devices}; {remedy}")


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


def _train(
    config: DictConfig, setup: str, named: "PreviousRun | None", clock: PhaseClock, processes: "Processes"
) -> float:
    datamodule, words = _data(config, processes), list(HydraConfig.get().overrides.task)
    if (day := datamodule.last_day) is not None:  # written into the run, which then has the same data on any day
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
        config.run_dir = str(previous.run_dir)
    else:
        refuse_used_folder(Path(config.run_dir))
    with lock_folder(Path(config.run_dir), is_resumed=previous is not None):
        return _run(config, datamodule, previous, setup, words, clock, processes, choice)


def _learn_more(config: DictConfig, setup: str, clock: PhaseClock, processes: "Processes") -> float:
    """A night: learn the plays that a finished run has not learned."""
    refuse_another_recipe(config)
    from segue.training.night import night_from

    run_dir = Path(config.run_dir)
    with night_from(config) as night:
        if night is None:
            return float("nan")
        config.refit = "none"
        config.callbacks.merge_with({"plots": None})
        rejected = {night.new.whole.rejected_path} if night.new.whole.reading.num_rejected else set()
        forget_unfinished_night(run_dir, but=rejected)
        with lock_folder(run_dir):
            words = list(HydraConfig.get().overrides.task)
            _run(config, night.new.evaluated, None, setup, words, clock, processes, None, night)
    if not night.is_done:
        sys.exit(FALL)
    return float("nan")


FALL = 3
"""Exit code of a night that is not exported."""


def _is_auto() -> bool:
    return bool(HydraConfig.get().runtime.choices["recipe"] == "auto")


def _choose(config: DictConfig, datamodule: "SplitDataModule", words: list[str]) -> "tuple[Choice | None, list[str]]":
    """The comparison of `recipe=auto`, and the words of the command line with what it chose."""
    from segue.training.choosing import choose, without_auto

    if (choice := choose(datamodule, config, words, partial(compose, HydraConfig.get().job.config_name))) is not None:
        chosen = choice.best.words
    else:
        chosen = f"recipe={'playlists' if datamodule.vocabulary.mean_played_ratio is None else 'shares'}"
        console.print(f"recipe       {chosen}: validation has too few sessions to compare recipes", soft_wrap=True)
    return choice, [*without_auto(words), *chosen.split()]


def _better(
    config: DictConfig,
    model: "Ranker",
    datamodule: "SplitDataModule",
    choice: "Choice | None",
    words: list[str],
    clock: PhaseClock,
) -> BetterModel | None:
    """The counting model that validates better than the trained one, on data of the user's."""
    is_own = HydraConfig.get().runtime.choices["datamodule"].startswith("table")
    if _is_job() or config.trainer.fast_dev_run or (choice is None and not is_own):
        return None
    from segue.training.choosing import better_than, rivals_of

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
        from segue.training.adding import add_tracks

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
    of_night = [word for word in hydra.overrides.task if word.startswith(("guard=", "keep_days="))]
    if of_night and config["from"] is None:
        raise InputError(f"{of_night[0]} is of a night and needs from=<run>; leave it out")
    is_again = config["from"] is not None and is_unfinished_night(Path(config.run_dir))
    named = None if is_again else named_run(config)
    if named is None and config["from"] is None:  # a run that goes on has its source
        check_source_choice(hydra.runtime.choices["datamodule"], hydra.overrides.task)
    _check_settings(config)
    if config.get("logger"):
        import mlflow  # noqa: F401  # needed later; here it is imported quickly
    return setup, named


def _check_settings(config: DictConfig) -> None:
    if _is_auto() and config.trainer.get("strategy") is not None:
        raise InputError(
            "recipe=auto compares recipes in one process, and trainer=ddp trains in several; name a recipe, such as "
            "recipe=playlists, or leave out trainer=ddp"
        )
    from segue.callbacks.ranking_metrics import check_monitor_mode
    from segue.datamodules.learned import FOLDER as LEARNED
    from segue.datamodules.shards.shard_vocabulary import example_of

    learned = None if config["from"] is None else Path(str(config["from"])) / LEARNED
    ranker = instantiate(config.ranker, _convert_="all")(vocabulary=example_of(config.datamodule, learned))
    if config.trainer.get("strategy") is not None:
        _check_shared(config, ranker.loss, config.datamodule.batch_size)
    check_monitor_mode(config.monitor.metric, config.monitor.mode)


def _num_processes(config: DictConfig) -> int:
    return int(config.trainer.devices * config.trainer.get("num_nodes", 1))


def _groups(config: DictConfig, loss: "Loss", batch_size: int) -> "Callable[[int], int]":
    """From the number of pairs of a batch to that of the groups that processes share among themselves."""
    from segue.datamodules.batches import one_for_each_process

    if config.loss.get("candidates") is not None:
        return loss.groups
    return one_for_each_process(loss.groups, count=_num_processes(config), batch_size=batch_size)


def _check_shared(config: DictConfig, loss: "Loss | None", batch_size: int | None) -> None:
    """Refuse what several processes cannot train together. The batch size is None where only the shards know it."""
    if loss is None:
        raise InputError("trainer=ddp divides the pairs of a batch, and a baseline reads no batches; leave it out")
    if not isinstance(batch_size, int) or batch_size < 1:  # which the datamodule refuses
        return
    count = _num_processes(config)
    if count > (groups := _groups(config, loss, batch_size)(batch_size)):
        raise InputError(
            f"trainer=ddp has {count} processes, and this loss compares the {batch_size:,} pairs of a batch in "
            f"{groups} part{'s' * (groups > 1)}, which cannot be divided; use "
            f"loss.candidates={max(2, batch_size // count)}, or a larger datamodule.batch_size"
        )


def _data(config: DictConfig, processes: "Processes") -> "SplitDataModule":
    folder = Path(str(config.datamodule.path))
    already_there = set(folder.glob("*")) if folder.is_dir() else set()
    with console.status("preparing"):
        datamodule: SplitDataModule = instantiate(config.datamodule, _convert_="all")
    processes.once_per_machine("files", datamodule.prepare_data)
    if config.datamodule.prepare is not None and Path(datamodule.path) != folder:
        done = "read from" if Path(datamodule.path) in already_there else "written to"
        console.print(f"simulated    logs {done} {datamodule.path}", soft_wrap=True, markup=False)
    with console.status("reading events"):
        datamodule.setup("fit")
    if config.get("listener") is not None:
        datamodule.check_pasts()
    return datamodule


def _run(
    config: DictConfig,
    datamodule: "SplitDataModule",
    previous: "PreviousRun | None",
    setup: str,
    words: list[str],
    clock: PhaseClock,
    processes: "Processes",
    choice: "Choice | None",
    night: "Night | None" = None,
) -> float:
    from pytorch_lightning import Trainer, seed_everything
    from pytorch_lightning.callbacks import Checkpoint

    from segue.callbacks.assembly import build_callbacks
    from segue.callbacks.interrupt import Interrupt
    from segue.callbacks.run_context import RunContext, RunHistory
    from segue.datamodules.batches import BatchShare
    from segue.datamodules.describing.measures import profile_of
    from segue.reports.model_card import CardData, write_model_card
    from segue.runs.folder import record_beginning
    from segue.tracking.logger import build_logger, run_logger, start_run
    from segue.tracking.store import BEGAN_FROM, PRUNED, runs_page
    from segue.training.refit import begun, decided_by, epochs_of_refit, is_refitted, refit

    hydra, run_dir = HydraConfig.get(), Path(config.run_dir)
    seed_everything(config.seed, workers=True, verbose=False)
    remarks = _show_data(datamodule, has_table=night is None)
    if choice is not None:
        console.print(choice.table())
    build = instantiate(config.ranker, _convert_="all")
    model: Any = build(vocabulary=datamodule.vocabulary) if night is None else night.grown.module
    history, chosen = RunHistory(clock), instantiate(config.callbacks, _convert_="all")
    context = RunContext(datamodule=datamodule, history=history, describe=profile_of)
    callbacks, after_test = build_callbacks(chosen, context, monitor=config.monitor.metric if night is None else None)
    pruning = None
    if config.trial:
        from segue.sweeps.pruning import Pruning

        pruning = Pruning(**config.trial, monitor=config.monitor.metric)
        callbacks.append(pruning)
    is_exported = config.callbacks.get("export") is not None
    if previous and config.refit == "auto" and is_exported:  # it exports what it would have exported
        config.refit = read_config(previous.run_dir / "config.yaml").get("refit", "none")
    config.refit = processes.decide(
        "refit",
        lambda: (
            "all" if is_refitted(datamodule, refit=config.refit, is_job=_is_job(), is_exported=is_exported) else "none"
        ),
    )
    clock.end("data")
    run_id, checkpoint = (previous.run_id, previous.checkpoint) if previous else (None, None)
    data_digest = datamodule.digest()
    if processes.count > 1:
        _check_shared(config, model.loss, datamodule.batch_size)
        groups = _groups(config, model.loss, datamodule.batch_size)
        datamodule.batch_share = BatchShare(index=processes.index, count=processes.count, groups=groups)
        processes.check_same("data", data_digest)
        checkpoint = processes.decide("checkpoint", lambda: checkpoint and str(checkpoint))
        processes.wait_for_all()
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

    if night is None:
        trainer.fit(model, datamodule, ckpt_path=checkpoint, weights_only=True)
    else:
        after_test.refitted, after_test.is_exported = night.learn(config, build), night.is_exported
        after_test.has_tested = False  # its lists are those of the run that the night began from
        clock.end("training")
    if config.refit == "all" and not any(isinstance(one, Interrupt) and one.stopped for one in callbacks):
        try:
            whole, limit = datamodule.as_training(), config.trainer.get("limit_train_batches")
            num_epochs = processes.decide(
                "epochs", lambda: epochs_of_refit(history.best_epoch(trainer) + 1, datamodule, whole, limit=limit)
            )
            decided = processes.decide("repeats", lambda: decided_by(trainer, model))
            path = processes.decide("begun", lambda: (found := begun(run_dir, num_epochs, decided)) and str(found))
            epochs = history.epochs[:num_epochs]
            after_test.is_begun_from = config.recipe.name != "mixture"
            after_test.refitted = refit(config, whole, decided, epochs, checkpoint=None if path is None else Path(path))
        except (InputError, OSError) as error:  # what was trained is not lost
            console.print(f"refit        none, the tested model is exported: {error}", soft_wrap=True, markup=False)
        clock.end("refit")
    processes.leave()
    if not processes.is_first:
        return float("nan")
    if processes.count > 1:
        trainer = instantiate(config.trainer, **parts, devices=1, num_nodes=1, strategy="auto", _convert_="all")
    if pruning is not None and pruning.pruned:  # its test and its recommendations are not needed
        if logger:
            logger.log_tags({PRUNED: "true"})
            logger.finish()
        return float("nan")
    best = "best" if night is None and trainer.checkpoint_callback and not config.trainer.fast_dev_run else None
    trainer.test(model, datamodule, ckpt_path=best, weights_only=True, verbose=False)
    if night is not None:
        history.test.update(night.metrics())
    metrics, more_files = history.metrics(), []
    if choice is not None:
        more_files.append(run_dir / "choice.json")
        write_record(choice.record(), more_files[0])
    run_id = logger.run_id if logger else None
    metrics_file = history.write(run_dir, mlflow_run_id=run_id)
    clock.end("tracking")
    better = None if night is not None else _better(config, model.eval(), datamodule, choice, words, clock)
    finished = FinishedRun(
        config=config,
        choices=dict(hydra.runtime.choices),
        overrides=list(hydra.overrides.task),
        run_id=run_id,
        runs_page=runs_page(str(logger.experiment_id)) if logger else None,
        metrics=metrics,
        examples=after_test.examples,
        seconds=clock.seconds,
        is_job=_is_job(),
        better=better,
        learned=(
            share_learned(datamodule.summary(), is_by_time=datamodule.is_by_time) if night is None else night.learned
        ),
        refit=None if after_test.refitted is None or after_test.exported is None else after_test.refitted.record(),
    )
    data = CardData(
        path=datamodule.path, digest=data_digest, sizes=datamodule.summary(), span=datamodule.span(), remarks=remarks
    )
    written = metrics_file, write_model_card(finished, data, provenance())
    if night is not None:  # the last file: a folder without it has no whole night
        record = night.write(run_dir, clock.seconds, is_exported=after_test.exported is not None)
        lines = night_report(record, run_id, config.run_dir)
        more_files.append(run_dir / NIGHT)
    if logger:
        for file in (*written, *more_files):
            logger.log_file(file)
        if night is not None:
            logger.log_metrics(night.metrics())
            logger.log_tags({"night": night.judgement["verdict"], BEGAN_FROM: str(night.folder)})
        clock.end("tracking")
        logger.log_metrics({f"time/{phase}_s": seconds for phase, seconds in clock.seconds.items()})
        logger.finish()
    clock.end("tracking")

    for line in model.describe():
        console.print(line, soft_wrap=True, markup=False)
    if night is not None:
        show_lines(lines.items())
        return float("nan")
    for block in training_report(finished):
        console.print(block, soft_wrap=isinstance(block, str), markup=False)
    return metrics[config.monitor.metric]
