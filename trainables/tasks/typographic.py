"""The typographic task: a CLIP is to answer by the content of an image, not by words written on it.

From Afzali et al. 2025, arXiv 2411.08923.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trainables.records import Direction, Goal, Goals
from trainables.settings.parameters import Parameters
from trainables.settings.sets import TypographicSet
from trainables.settings.task import TaskSettings, split_of
from trainables.settings.typographic import TypographicSettings
from trainables.tasks.kind import Baseline, CardText, Metric, TestedValues

if TYPE_CHECKING:
    from trainables.context.task import Measures, TaskData
    from trainables.context.task_images import TaskImages

CLEAN_ACCURACY = Goal(
    metric="clean_accuracy",
    direction="maximize",
    short="clean",
    title="clean accuracy",
    best="cleanest",
    view="clean",
)
ROBUST_ACCURACY = Goal(
    metric="robust_accuracy",
    direction="maximize",
    short="robust",
    title="robust accuracy (attacked images)",
    best="most robust",
    view="attacked",
)
PAINT = "PAINT"
_ABOUT = {
    "clean_accuracy": "correct answers on unchanged images",
    "robust_accuracy": "correct answers on images with a wrong class written on them",
    "text_confusion_rate": "attacked images answered with the written class",
    "two_way_accuracy": "attacked images for which the true class scores above the written one",
    "reference_kl": "KL(untouched || this model) on clean images, in nats",
    "sign_reading": "words on images without an object that are read correctly",
}
_LOWER_IS_BETTER = ("text_confusion_rate", "reference_kl")


class TypographicKind:
    """Implements ``TaskKind``."""

    name = "typographic"
    settings: type[TaskSettings] = TypographicSettings

    def goals(self, settings: TaskSettings) -> Goals:
        """Return clean and robust accuracy, or the user's own metric in place of the latter."""
        own = next((name for name, metric in _typographic(settings).metrics.items() if metric.goal), None)
        return CLEAN_ACCURACY, ROBUST_ACCURACY if own is None else _own_goal(own, _typographic(settings))

    def metrics(self, settings: TaskSettings) -> Mapping[str, Metric]:
        """Return the goals and further metrics: reading of signs, held-out attacks, KL, goals on a single set, the
        user's own.
        """
        from trainables.attack.rendering import variants  # this imports NumPy and Pillow

        task = _typographic(settings)
        names = ["clean_accuracy", "robust_accuracy", "text_confusion_rate", "reference_kl", "sign_reading"]
        names += [f"robust_accuracy/{variant}" for variant in variants(task.attack.recipe)]
        pasted = [name for name, of_set in task.sets.items() if not isinstance(of_set, TypographicSet)]
        own = [name for name in pasted if task.sets[name].has("validation")]
        names += [f"{name}/{metric}" for name in own for metric in ("clean_accuracy", "robust_accuracy")]
        known = {name: Metric(direction=_direction(name), about=self.about(name) or "") for name in names}
        return known | {
            name: Metric(direction=metric.direction, about=f"mean of {metric.function}")
            for name, metric in task.metrics.items()
        }

    def curves(self, settings: TaskSettings) -> Sequence[str]:
        return "clean_accuracy", "robust_accuracy"

    def about(self, metric: str) -> str | None:
        if metric.startswith("robust_accuracy/"):
            return "`robust_accuracy` under an attack that was never trained on"
        return _ABOUT.get(metric)

    def unused_parameters(self) -> frozenset[str]:
        return frozenset({"target", "start"})

    def refuses(self, parameters: Parameters) -> tuple[str, str] | None:
        return None

    def tried_first(self, settings: TaskSettings) -> Mapping[str, Sequence[str]]:
        return {
            "tune": ("all", "visual", "last_blocks", "transform"),
            "objective": ("cross_entropy", "kto", "dpo", "ipo"),
        }

    def baselines(self, settings: TaskSettings) -> Sequence[Baseline]:
        paint = _typographic(settings).paint
        return [] if paint is None else [Baseline(name="paint", title=PAINT, parameters=paint.parameters())]

    def baseline_titles(self) -> Mapping[str, str]:
        return {"paint": PAINT}

    def goal_sets(self, settings: TaskSettings) -> list[str]:
        named = [split_of(name, "test") for name in settings.evaluate.test.sets]
        return [f"{name}/{split}" for name, split in named if not isinstance(settings.sets[name], TypographicSet)]

    def card(self, settings: TaskSettings, values: TestedValues) -> CardText:
        task = _typographic(settings)
        copies = f"{task.train.copies} attacked " + ("copy" if task.train.copies == 1 else "copies") + " per image"
        return CardText(
            summary="A CLIP fine-tuned against typographic attacks: words in a picture that name another thing.",
            data={"copies": copies, "attack": f"recipe `{task.attack.recipe}`"},
            limits=_limits(task, values),
            licence="Words were written in Aileron (CC0 1.0) and DejaVu (Bitstream Vera and Arev licences).",
        )

    def load(self, settings: TaskSettings, images: TaskImages) -> TaskData:
        from trainables.context.typographic_data import TypographicData

        return TypographicData(_typographic(settings), images)

    def measures(self) -> Measures:
        from trainables.evaluation.typographic import TypographicMeasures

        return TypographicMeasures()


def _typographic(settings: TaskSettings) -> TypographicSettings:
    assert isinstance(settings, TypographicSettings), "settings are read by the task that they name"
    return settings


def _own_goal(name: str, task: TypographicSettings) -> Goal:
    title = name.replace("_", " ")
    return Goal(
        metric=name, direction=task.metrics[name].direction, short=title, title=title, best=f"best {title}", view=None
    )


def _direction(metric: str) -> Direction:
    return "minimize" if metric in _LOWER_IS_BETTER else "maximize"


def _limits(task: TypographicSettings, values: TestedValues) -> list[str]:
    held_out = [name.partition("/")[2] for name in values.test if name.startswith("robust_accuracy/")]
    sets = ", ".join(f"`{name}`" for name in task.evaluate.test.sets)
    lines = [
        "For zero-shot classification in which words in the picture must not decide the answer.",
        f"Robustness is shown for words written by recipe `{task.attack.recipe}`"
        + (f", and was measured under {', '.join(held_out)}" if held_out else "")
        + "; other attacks (adversarial noise, logos, many words) were not looked at.",
        f"The accuracies hold for the test sets ({sets}), their class names and their prompts.",
    ]
    if "sign_reading" in values.test:
        before = f"{values.untouched['sign_reading']:.3f} before, " if "sign_reading" in values.untouched else ""
        lines.append(
            f"It reads words less, even if the question is about them: of words alone on an image it gets "
            f"right {before}{values.test['sign_reading']:.3f} now. Do not use it to read signs."
        )
    else:
        lines.append("It reads words less, even if the question is about them; how much less was not measured.")
    return lines
