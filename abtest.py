"""From event logs to a verdict: effects with their intervals, and whether the experiment can be believed."""

from pathlib import Path

from omegaconf import DictConfig

from src.console import ROOT, console, verb


@verb("abtest")
def abtest(config: DictConfig) -> None:
    """Read the logs, or play two recommenders first; compare; write and print; attach the result to MLflow runs."""
    from hydra.utils import instantiate

    from src.console import arm_bars, effects_table
    from src.errors import InputError
    from src.evaluation.abtest import analyse
    from src.evaluation.abtest_log import read_users
    from src.evaluation.abtest_report import sentences, write_report
    from src.simulation.arms import make_policies
    from src.tracking import attach_abtest, locate_recommendations, provenance, refuse_used_folder

    run_dir = Path(config.run_dir)
    refuse_used_folder(run_dir, "abtest.json")
    settings = instantiate(config.analysis, _convert_="all")
    arms = {"C": config.control, "T1": config.treatment}
    if (config.logs is None) == (None in arms.values()) or (config.logs and any(arms.values())):
        raise InputError(
            f"logs={config.logs} control={config.control} treatment={config.treatment}: "
            "give logs=<folder>, or both control= and treatment= to play them first"
        )
    logs = Path(config.logs or run_dir / "logs")
    if config.logs is None:
        with console.status("making the world"):
            world = instantiate(config.world, _convert_="all")
            _ = world.interest_neighbours
        templates = instantiate(config.arm, _convert_="all")
        instantiate(config.traffic)(
            world=world,
            policies=make_policies(arms, templates=templates, world=world, locate=locate_recommendations),
            experiment=config.experiment_name or "ABTEST",
            folder=run_dir,
            write_logs=True,
            after=None,
            provenance=provenance(ROOT),
            progress=arm_bars,
        )
    with console.status("reading logs"):
        experiment = config.experiment_name
        users = read_users(logs, experiment=experiment, max_rejected=config.max_rejected)
        earlier = None
        if config.pre:
            earlier = read_users(Path(config.pre), experiment=None, max_rejected=config.max_rejected, any_arms=True)
    with console.status("comparing"):
        analysis = analyse(users, settings, earlier)
        write_report(analysis, run_dir, provenance(ROOT))
    attach_abtest(analysis.record(), run_dir, {role: config[role] for role in ("control", "treatment")})
    console.print(effects_table(analysis.record()))
    for sentence in sentences(analysis):
        console.print(sentence, markup=False, highlight=False)
    console.print(f"run folder   {run_dir}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    abtest()
