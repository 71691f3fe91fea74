"""The registered model as MLflow serves it: this script is stored with the model and runs without the project.

It imports `tft`, which travels along, and nothing of `pipeline`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from tft.checkpoint import load_checkpoint
from tft.predict import Predictor, last_bar


class ServedModel(PythonModel):
    """A long table of the last bars in; one row per instrument out, decided on the last bar."""

    def load_context(self, context: Any) -> None:
        self.predictor = Predictor(load_checkpoint(context.artifacts["checkpoint"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        columns = {str(name): np.asarray(model_input[name]) for name in model_input.columns}
        return pd.DataFrame(last_bar(self.predictor.run(self.predictor.table(columns))))


set_model(ServedModel())
