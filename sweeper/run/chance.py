"""Refusal of an untouched model that may only guess: a search on it would have no meaning."""

from __future__ import annotations

from collections.abc import Callable

from sweeper.errors import UserError
from sweeper.spec.spec import Spec
from trainables.evaluation.zero_shot import ZeroShot

FEW_CLASSES = 3
"""Largest number of classes for which the user is only warned: a good model's interval may then reach chance."""


def check_chance(spec: Spec, known: ZeroShot, say: Callable[[str], None]) -> None:
    """Report the accuracy of the untouched model.

    Raises:
        UserError: it may be that of guessing.
    """
    line = f"untouched model: {known.text()}"
    if not known.at_chance():
        say(line)
        return
    causes = (
        f"preprocessing (mean, std, size), class names that are not words or in another order than the labels, "
        f"templates, or weights that do not belong to {spec.model.architecture} or were never trained"
    )
    if known.classes <= FEW_CLASSES:
        say(
            f"{line}. That may be chance; with {known.classes} classes it can be so all the same. Else look at {causes}"
        )
        return
    if spec.model.allow_chance:
        say(f"{line}. That may be chance: model.allow_chance sweeps it all the same")
        return
    raise UserError(
        f"{line}. That may be chance: the model does not know these classes. Look at {causes}. `sweeper preview SPEC` "
        "shows images, classes and prompts; model.allow_chance: true sweeps the model as it is"
    )
