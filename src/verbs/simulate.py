"""From a world and a recommender for each arm to event logs in the format of the service."""

from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from segue.reports.console import console, show_lines, warn
from segue.reports.progress import arm_bars
from segue.reports.tables import arms_table
from segue.runs.folder import refuse_used_folder
from segue.runs.provenance import call_of, provenance
from segue.verbs.sweeps.jobs import Sweep
from segue.verbs.terminal.entry import verb
from segue.verbs.terminal.words import EXPERIMENT, renamed

words_of = partial(renamed, beginnings=EXPERIMENT)
"""The words of the command line as Hydra reads them."""


@verb("simulate", option_of="'arms={{C: popular, T1: {}}}'".format, rewrite=words_of, sweepers=[Sweep])
def simulate(config: DictConfig) -> None:
    """Simulate the sessions, write the logs, print the means of each arm."""
    from segue.runs.recommender_names import recommender_name

    run_dir = Path(config.run_dir)
    refuse_used_folder(run_dir, "simulation.json")
    arms = plain(config.default_arms if config.arms is None else config.arms)
    after = Path(str(config.after)) if config.after else None
    record = play(config, arms, str(config.experiment_name), after=after)
    names = {arm: str(recommender_name(given)) for arm, given in arms.items()}
    title = f"experiment {config.experiment_name}, {config.days} day{'s' * (config.days > 1)}"
    console.print(arms_table(record["arms"], names, title=title))
    steps, seconds = record["steps_per_second"], record["seconds"]
    speed = f"{steps * seconds:,.0f} recommendations in {seconds:.1f} s, {steps:,.0f} per second"
    experiment = f" experiment={config.experiment_name}" if config.after else ""  # previous days may have others
    following = [f"{call_of('abtest')} logs={run_dir}{experiment}"] * (len(arms) > 1)
    following.append(f"{call_of('train')} datamodule=botify datamodule.path={run_dir}")
    lines = [("next", command) for command in following if config.write_logs]
    show_lines([("simulated", speed), ("run folder", str(run_dir)), *lines])


def play(
    config: DictConfig,
    arms: Any,
    experiment: str,
    *,
    says: str | None = None,
    after: Path | None = None,
) -> dict[str, Any]:
    """Play the recommender of each arm to the listeners of the world.

    Args:
        config: has world, arm, traffic and run_dir.
        arms: what is recommended in each arm, by its name.
        experiment: its name in the log.
        says: printed before it starts.
        after: run folder of a previous run to continue.

    Returns:
        The record, which is in `simulation.json`.

    Raises:
        InputError: a recommender, the world or the traffic cannot be used.
    """
    from segue.runs.tracking.named_runs import locate_recommendations
    from segue.simulation.experiment import run_experiment
    from segue.simulation.policies import hints, make_policies

    with console.status("preparing the world"):
        world = instantiate(config.world, _convert_="all")
        _ = world.interest_neighbours
    templates = instantiate(config.arm, _convert_="all")
    policies = make_policies(arms, templates=templates, world=world, locate=locate_recommendations)
    for line in hints(policies):
        warn(line)
    if world.model:
        warn(world.model.caution)
    if says:
        console.print(says, markup=False)
    return run_experiment(
        world,
        policies,
        instantiate(config.traffic, _convert_="all", experiment=experiment),
        Path(config.run_dir),
        after=after,
        provenance=provenance(),
        progress=arm_bars,
    )


def plain(value: Any) -> Any:
    """A value of a config without OmegaConf."""
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
