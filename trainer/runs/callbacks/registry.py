"""The callbacks by name."""

from trainer.runs.callbacks.early_stopping import EarlyStopping
from trainer.runs.callbacks.gradient_check import GradientCheck
from trainer.runs.callbacks.loggers import MLflow, TensorBoard
from trainer.runs.callbacks.protocol import CallbackConfig

CALLBACKS: dict[str, type[CallbackConfig]] = {
    cls.name: cls for cls in (EarlyStopping, GradientCheck, MLflow, TensorBoard)
}
