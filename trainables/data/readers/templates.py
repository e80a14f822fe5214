"""Prompt templates: the literature's template of each set, and OpenAI's ensembles for ImageNet."""

from __future__ import annotations

from trainables.data.readers.class_names import zero_shot_metadata
from trainables.settings.sets import Templates, TorchvisionName

PHOTO = "a photo of a {}."
"""Template of sets without a template of their own, too: folders, shards, RTA-100, PAINT, SCAM."""
DISENTANGLING = "a photo of {}."
LITERATURE: dict[TorchvisionName, str] = {
    "caltech101": PHOTO,
    "oxford_iiit_pet": "a photo of a {}, a type of pet.",
    "stanford_cars": PHOTO,
    "flowers102": "a photo of a {}, a type of flower.",
    "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
    "dtd": "{} texture.",
    "sun397": PHOTO,
    "eurosat": "a centered satellite photo of a {}.",
    "food101": "a photo of a {}, a type of food.",
    "imagenet": PHOTO,
}
"""Templates of Defense-Prefix (Azuma and Matsui 2023), after CoOp (Zhou et al. 2022)."""


def templates_of(templates: Templates, literature: str = PHOTO) -> tuple[str, ...]:
    """Return templates with ``{}`` for the class name; several form an ensemble.

    Args:
        literature: the template that ``templates: literature`` selects.
    """
    if isinstance(templates, list):
        return tuple(templates)
    if templates == "literature":
        return (literature,)
    known = zero_shot_metadata()
    of_imagenet = known.SIMPLE_IMAGENET_TEMPLATES if templates == "imagenet_7" else known.OPENAI_IMAGENET_TEMPLATES
    return tuple(template("{}") for template in of_imagenet)
