"""The recommendations as an MLflow model.

MLflow copies this file beside the recommendations and runs it when the model is loaded ("models from code"): nothing is
pickled, and a server of the model does not need Segue.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class NextTracks(PythonModel):  # type: ignore[misc]  # mypy does not read mlflow
    """From tracks to the tracks that should follow each, best first."""

    def load_context(self, context: Any) -> None:
        """Read the lists."""
        with Path(context.artifacts["recommendations"]).open(encoding="utf-8") as file:
            key = context.model_config["key"]  # of the format of the file
            self._lists = {line[key]: line["recommendations"] for line in map(json.loads, file)}

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:  # noqa: ARG002
        """A line for each track: `track`, `recommendations` (ids, best first; none for an unknown track).

        Args:
            context: MLflow's.
            model_input: has a column `track`.
            params: `k`, how many to recommend.
        """
        k = max(0, int(params["k"]))
        tracks = model_input["track"].tolist()
        return pd.DataFrame({"track": tracks, "recommendations": [self._lists.get(track, [])[:k] for track in tracks]})


set_model(NextTracks())
