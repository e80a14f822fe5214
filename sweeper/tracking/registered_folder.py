"""An exported folder in the format of MLflow's models: ``mlflow.pyfunc.load_model`` returns a classifier."""

from __future__ import annotations

import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

CLASSIFIER = Path(__file__).with_name("classifier.py")
CLIP = "clip"
"""Name of the exported folder among the artifacts: ``artifacts/clip``, which plain open_clip loads too."""
PACKAGES = ("torch", "open_clip_torch", "mlflow", "pandas", "pillow")
"""Packages that the classifier imports."""


def write_registered(exported: Path, target: Path) -> None:
    """Write the folder of a registered version. Errors are MLflow's.

    Args:
        target: a folder that does not exist yet.
    """
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "path", required=False), ColSpec("binary", "image", required=False)]),
        outputs=Schema([ColSpec("string", "answer"), ColSpec("double", "probability")]),
        params=ParamSchema(
            [ParamSpec("classes", "string", [], shape=(-1,)), ParamSpec("templates", "string", [], shape=(-1,))]
        ),
    )
    with TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow asks for an example of input, which it would run the model on
        named = Path(scratch, CLIP)  # MLflow names its copy after the folder, and does not follow links
        shutil.copytree(exported, named)
        save_model(
            path=str(target),
            python_model=str(CLASSIFIER),
            artifacts={CLIP: str(named)},
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES],
            signature=signature,
        )
