"""The trackers of --report_to, and the packages that they need."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from transformers.integrations import INTEGRATION_TO_CALLBACK

from wordmask.utils.errors import InputError, suggest

# For each tracker, the modules of which one must be installed, and the package to install; kubeflow needs none.
NEEDED = {
    "azure_ml": (("azureml",), "azureml-core"),
    "clearml": (("clearml",), "clearml"),
    "codecarbon": (("codecarbon",), "codecarbon"),
    "comet_ml": (("comet_ml",), "comet-ml"),
    "dagshub": (("dagshub",), "dagshub"),
    "dvclive": (("dvclive",), "dvclive"),
    "flyte": (("flytekit",), "flytekit"),
    "mlflow": (("mlflow",), "mlflow"),
    "neptune": (("neptune",), "neptune"),
    "swanlab": (("swanlab",), "swanlab"),
    "tensorboard": (("tensorboard", "tensorboardX"), "tensorboard"),
    "trackio": (("trackio",), "trackio"),
    "wandb": (("wandb",), "wandb"),
}

USUAL = ("tensorboard", "wandb", "mlflow", "trackio", "none")


def check_trackers(trackers: Sequence[str]) -> None:
    """Raise an `InputError` if a tracker is unknown or its package is not installed."""
    for tracker in trackers:
        if "," in tracker:
            separate = " ".join(tracker.replace(",", " ").split())
            raise InputError(f"--report_to: {tracker} is one word; separate trackers by spaces: {separate}")
        if tracker not in ("none", "all", *INTEGRATION_TO_CALLBACK):
            nearest = suggest(tracker, list(INTEGRATION_TO_CALLBACK))
            raise InputError(f"--report_to: {tracker} is not known{nearest}; the usual ones are {', '.join(USUAL)}")
        modules, package = NEEDED.get(tracker, ((), ""))
        if modules and not any(importlib.util.find_spec(module) for module in modules):
            raise InputError(f"--report_to {tracker} needs its package: pip install {package}")
