"""From event logs to a verdict: effects with their intervals, and whether the experiment can be believed."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from src.sweeps.jobs import Sweep
from src.terminal.console import console
from src.terminal.entry import verb
from src.terminal.words import experiment_as_name


@verb("abtest", rewrite=experiment_as_name, sweepers=[Sweep])
def abtest(config: DictConfig) -> None:
    """Read the logs, or play two recommenders first; compare; write and print; attach the result to MLflow runs."""
    from hydra.utils import instantiate

    from src.abtest.analysis import analyse
    from src.abtest.log import read_users
    from src.abtest.report import sentences, write_report
    from src.abtest.sources import arms_to_play
    from src.recommender_names import recommender_name
    from src.runs.folder import refuse_used_folder
    from src.runs.provenance import provenance
    from src.simulation.arm_policies import make_policies
    from src.terminal.progress import arm_bars
    from src.terminal.tables import effects_table
    from src.tracking.recommenders import attach_abtest, locate_recommendations

    run_dir = Path(config.run_dir)
    refuse_used_folder(run_dir, "abtest.json")
    settings = instantiate(config.analysis, _convert_="all")
    experiment = None if config.experiment_name is None else str(config.experiment_name)
    given = {role: config[role] for role in ("control", "treatment")}
    given = {role: OmegaConf.to_container(arm) if OmegaConf.is_config(arm) else arm for role, arm in given.items()}
    arms = arms_to_play(config.logs, given)
    earlier = None
    if config.pre:
        before = Path(str(config.pre))
        earlier = read_users(before, experiment=None, max_rejected=config.max_rejected, any_arms=True, called="pre")
    logs = Path(str(config.logs)) if arms is None else run_dir / "logs"
    if arms is not None:
        settings.shares(list(arms))
        with console.status("making the world"):
            world = instantiate(config.world, _convert_="all")
            _ = world.interest_neighbours
        templates = instantiate(config.arm, _convert_="all")
        instantiate(config.traffic)(
            world=world,
            policies=make_policies(arms, templates=templates, world=world, locate=locate_recommendations),
            experiment=experiment or "ABTEST",
            folder=run_dir,
            write_logs=True,
            after=None,
            provenance=provenance(),
            progress=arm_bars,
        )
    with console.status("reading logs"):
        users = read_users(logs, experiment=experiment, max_rejected=config.max_rejected)
    with console.status("comparing"):
        analysis = analyse(users, settings, earlier)
        write_report(analysis, run_dir, provenance())
    attach_abtest(analysis.record(), run_dir, {role: recommender_name(arm) for role, arm in given.items()})
    console.print(effects_table(analysis.record()))
    for sentence in sentences(analysis):
        console.print(sentence, markup=False, highlight=False)
    console.print(f"run folder   {run_dir}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    abtest()
