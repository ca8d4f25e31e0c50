"""The board of Grafana and the alarms name metrics that the service has, and the board shows all of them."""

import re

from prometheus_client.parser import text_string_to_metric_families

from segue.serving.prometheus_metrics import Metrics, exposition
from segue.serving.release import Release
from segue.serving.worker_table import WorkerTable
from tests.deploying import queries


def exposed(release: Release) -> dict[str, set[str]]:
    """Labels of each sample of a service that has answered."""
    metrics = Metrics()
    metrics.answered("next", 200, 0.001)
    metrics.fell_back("C", "artist")
    metrics.played("TEST", "C", "last", 0.5)
    metrics.observe(0, 0, 0)
    text = exposition(WorkerTable(2, reset_after_s=1), release).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def test_every_label_of_the_board_and_the_alarms_is_one_of_its_metric(ring: Release) -> None:
    samples = exposed(ring)
    for title, query in queries().items():
        grouped = ", ".join(re.findall(r"\bby \(([^)]*)\)", query))
        labels = {*re.findall(r"\w+", grouped), *re.findall(r"(\w+)[=!]~?\"", query)}
        of_metrics = set[str]().union(*(samples[name] for name in re.findall(r"segue_\w+", query)))
        assert labels <= of_metrics | {"instance", "job"}, title


def test_the_board_shows_every_metric_of_the_service(ring: Release) -> None:
    shown = "".join(queries().values())
    families = {re.sub(r"_(?:bucket|count|sum)$", "", name) for name in exposed(ring) if name.startswith("segue_")}
    assert [name for name in families if name not in shown] == []
