"""From a world and a recommender for each arm to event logs in the format of the service."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segue.reports.tables import arms_table
from segue.sweeps.jobs import Sweep
from segue.terminal.console import console, warn
from segue.terminal.entry import verb
from segue.terminal.progress import arm_bars
from segue.terminal.words import renamed


def _words(words: list[str]) -> list[str]:
    return renamed(words, {"experiment=": "experiment_name="})


@verb("simulate", option_of="'arms={{C: popular, T1: {}}}'".format, rewrite=_words, sweepers=[Sweep])
def simulate(config: DictConfig) -> None:
    """Simulate the sessions, write the logs, print the means of each arm."""
    from hydra.utils import instantiate

    from segue.runs.folder import refuse_used_folder
    from segue.runs.provenance import provenance
    from segue.runs.recommender_names import recommender_name
    from segue.simulation.arm_policies import make_policies
    from segue.simulation.session_lists import hints
    from segue.tracking.recommenders import locate_recommendations

    run_dir = Path(config.run_dir)
    refuse_used_folder(run_dir, "simulation.json")
    with console.status("preparing the world"):
        world = instantiate(config.world, _convert_="all")
        _ = world.interest_neighbours
    templates = instantiate(config.arm, _convert_="all")
    arms: Any = config.default_arms if config.arms is None else config.arms
    arms = OmegaConf.to_container(arms) if OmegaConf.is_config(arms) else arms
    policies = make_policies(arms, templates=templates, world=world, locate=locate_recommendations)
    for line in hints(policies):
        warn(line)
    record = instantiate(config.traffic)(
        world=world,
        policies=policies,
        experiment=str(config.experiment_name),
        folder=run_dir,
        write_logs=config.write_logs,
        after=Path(str(config.after)) if config.after else None,
        provenance=provenance(),
        progress=arm_bars,
    )
    names = {arm: str(recommender_name(given)) for arm, given in arms.items()}
    title = f"experiment {config.experiment_name}, {config.days} day{'s' * (config.days > 1)}"
    console.print(arms_table(record["arms"], names, title=title))
    steps, seconds = record["steps_per_second"], record["seconds"]
    lines = [("simulated", f"{steps * seconds:,.0f} recommendations in {seconds:.1f} s, {steps:,.0f} per second")]
    lines.append(("run folder", str(run_dir)))
    if config.write_logs and len(arms) > 1:
        experiment = f" experiment={config.experiment_name}" if config.after else ""  # previous days may have others
        lines.append(("next", f"python abtest.py logs={run_dir}{experiment}"))
    if config.write_logs:
        lines.append(("next", f"python train.py datamodule=botify datamodule.path={run_dir}"))
    for name, line in lines:
        console.print(f"{name:12} {line}", soft_wrap=True, markup=False)
