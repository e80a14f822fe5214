"""The model that MLflow loads (models from code): this file is copied into each registered version, not pickled.

It imports nothing of sweeper: loading a version needs MLflow, pandas, Pillow, torch and open_clip.

    model = mlflow.pyfunc.load_model("models:/sweeper-mine@knee")
    model.predict(pandas.DataFrame({"path": ["dog.jpg"]}))
    model.predict(pandas.DataFrame({"image": [jpeg_bytes]}), params={"classes": ["dog", "cat"]})
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch
from PIL import Image

BATCH_SIZE = 64


class ClipClassifier(mlflow.pyfunc.PythonModel):
    """Zero-shot classification with the exported CLIP."""

    def load_context(self, context: Any) -> None:
        import open_clip

        folder = Path(context.artifacts["clip"])
        merges = folder / "bpe_simple_vocab.txt.gz"
        tokenizer = {"bpe_path": str(merges)} if merges.exists() else {}
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, _, self._preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self._model = model.eval().to(self._device)
        self._tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", **tokenizer)
        record = json.loads((folder / "sweeper.json").read_text())
        self._classes: list[str] = record.get("class_names") or []
        self._templates: list[str] = record.get("templates") or ["a photo of a {}."]

    def predict(self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return a row for each image: ``answer``, a class name, and ``probability``, that of the answer.

        Args:
            model_input: a column ``path`` (files) or ``image`` (the bytes of image files).
            params: ``classes`` to choose from and ``templates`` (with ``{}``); by default those of the sweep.
        """
        given = {name: list(value) for name, value in (params or {}).items() if value is not None and len(value)}
        classes, templates = given.get("classes", self._classes), given.get("templates", self._templates)
        if not classes:
            raise ValueError('name the classes: predict(images, params={"classes": ["dog", "cat"]})')
        images: list[Image.Image]
        if "path" in model_input:
            images = [Image.open(path) for path in model_input["path"]]
        elif "image" in model_input:
            images = [Image.open(io.BytesIO(data)) for data in model_input["image"]]
        else:
            raise ValueError("images are expected in a column `path` (files) or `image` (bytes of image files)")
        with torch.inference_mode():
            probabilities = self._probabilities(images, self._prompts(classes, templates))
        best = probabilities.max(-1)
        answers = [classes[index] for index in best.indices.tolist()]
        return pd.DataFrame({"answer": answers, "probability": best.values.tolist()}, index=model_input.index)

    def _prompts(self, classes: list[str], templates: list[str]) -> torch.Tensor:
        """Return normalised embeddings (C, D), means over templates."""
        rows = []
        for name in classes:
            tokens = self._tokenizer([template.format(name) for template in templates]).to(self._device)
            rows.append(self._model.encode_text(tokens, normalize=True).mean(0))
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    def _probabilities(self, images: list[Image.Image], prompts: torch.Tensor) -> torch.Tensor:
        """Return probabilities (N, C)."""
        parts = [torch.zeros(0, len(prompts))]
        for start in range(0, len(images), BATCH_SIZE):
            pixels = torch.stack([self._preprocess(image) for image in images[start : start + BATCH_SIZE]])
            embeddings = self._model.encode_image(pixels.to(self._device), normalize=True)
            parts.append((self._model.logit_scale.exp() * embeddings @ prompts.T).softmax(-1).cpu())
        return torch.cat(parts)


mlflow.models.set_model(ClipClassifier())
