"""What MLflow does not promise, against a store of its own."""

import time
from pathlib import Path

from src.tracking.mlflow_parts import watch_machine
from src.tracking.store import open_store, talking_to


def test_a_run_is_told_of_the_machine_until_it_is_ended(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment = open_store(uri, "segue")
    with talking_to(uri) as client:
        run_id = client.create_run(experiment).info.run_id
        end = watch_machine(run_id=run_id, tracking_uri=uri, interval_s=0.1)
        deadline = time.monotonic() + 60
        while not (metrics := client.get_run(run_id).data.metrics) and time.monotonic() < deadline:
            time.sleep(0.1)
        end()
        assert "system/cpu_utilization_percentage" in metrics
        ended = client.get_metric_history(run_id, "system/cpu_utilization_percentage")
        time.sleep(0.5)
        assert client.get_metric_history(run_id, "system/cpu_utilization_percentage") == ended
