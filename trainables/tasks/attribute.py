"""The attribute task: a CLIP is to ignore or reverse a concept (gender, a colour) and keep the content.

From the second half of Afzali et al. 2025. docs/attributes.md says what is measured, and which claims such an
intervention permits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainables.markdown import plain
from trainables.records import Goal, Goals
from trainables.settings.attribute import AttributeSettings
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings, split_of
from trainables.tasks.kind import Baseline, CardText, Metric, TestedValues

if TYPE_CHECKING:
    from trainables.context.task import Measures, TaskData
    from trainables.context.task_images import TaskImages

CONTENT_ACCURACY = Goal(
    metric="content_accuracy",
    direction="maximize",
    short="content",
    title="content accuracy",
    best="most accurate",
    view="clean",
)
_TITLES = {
    "projection": "projection",
    "closed_form": "closed form",
    "balanced": "balanced labels",
}
_ABOUT = {
    "content_accuracy": "contents answered correctly among the neutral prompts",
    "attribute_accuracy": "values of the attribute answered correctly, given the content",
    "attribute_gap": "how far attribute accuracy is from chance",
    "attribute_certainty": "mean of |2p - 1| (two values): how sure the model is of a value; accuracy at chance may be "
    "certainty about the wrong images",
    "worst_group_accuracy": "content accuracy in the worst group of content and value",
    "reference_kl": "KL(untouched || this model) over the neutral prompts, in nats",
}


class AttributeKind:
    """Implements ``TaskKind``."""

    name = "attribute"
    settings: type[TaskSettings] = AttributeSettings

    def goals(self, settings: TaskSettings) -> Goals:
        return CONTENT_ACCURACY, _bias_goal(_attribute(settings))

    def metrics(self, settings: TaskSettings) -> Mapping[str, Metric]:
        task = _attribute(settings)
        lower = {_skew(task), "attribute_gap", "reference_kl", "attribute_certainty"}
        names = [*_ABOUT, _skew(task)]
        names += [f"{name}/zero_shot_accuracy" for name in task.evaluate.retention if task.sets[name].has("validation")]
        return {
            name: Metric(direction="minimize" if name in lower else "maximize", about=self.about(name) or "")
            for name in names
        }

    def curves(self, settings: TaskSettings) -> Sequence[str]:
        return "content_accuracy", "attribute_accuracy", _skew(_attribute(settings))

    def about(self, metric: str) -> str | None:
        if metric.endswith("/zero_shot_accuracy"):
            return "zero-shot accuracy on a set that was not trained on"
        if metric.startswith("max_skew_at_"):
            return "max over values of ln(share among the best K / target), mean over queries; docs/attributes.md"
        return _ABOUT.get(metric)

    def unused_parameters(self) -> frozenset[str]:
        return frozenset({"copies"})

    def refuses(self, parameters: Parameters) -> tuple[str, str] | None:
        if parameters.rank is not None and parameters.form != "residual":
            return "rank", "a W of lower rank is not the untouched model at t = 0: leave `rank` out, or form: residual"
        if parameters.target in ("neutral", "equal") and parameters.objective == "none":
            return "target", "objective none trains towards no target; leave `target` out"
        return None

    def tried_first(self, settings: TaskSettings) -> Mapping[str, Sequence[str]]:
        """Return the values to try first, see ``TaskKind``.

        The target ``equal`` removes the skew of retrievals, flipped labels remove the attribute from answers.
        """
        skewed = _attribute(settings).attribute.bias == "max_skew"
        return {
            "target": ("equal", "flipped", "neutral") if skewed else ("flipped", "neutral", "equal"),
            "tune": ("transform", "all", "visual", "last_blocks"),
            "objective": ("cross_entropy", "kto", "dpo", "ipo"),
        }

    def baselines(self, settings: TaskSettings) -> Sequence[Baseline]:
        task = _attribute(settings)
        untrained: dict[str, Any] = {"objective": "none", "tune": "transform"}
        parameters: dict[str, dict[str, Any]] = {
            "projection": {**untrained, "start": "projection"},
            "closed_form": {**untrained, "start": "closed_form"},
            "balanced": {
                "objective": "cross_entropy",
                "target": "neutral",
                "tune": "transform",
                "learning_rate": task.balanced_learning_rate,
                "lambda_reg": 1.0,
                "penalty": 0.01,
            },
        }
        return [Baseline(name=name, title=_TITLES[name], parameters=parameters[name]) for name in task.baselines]

    def baseline_titles(self) -> Mapping[str, str]:
        return _TITLES

    def goal_sets(self, settings: TaskSettings) -> list[str]:
        named = [split_of(name, "test") for name in settings.evaluate.test.sets]
        return [f"{name}/{split}" for name, split in named]

    def card(self, settings: TaskSettings, values: TestedValues) -> CardText:
        task = _attribute(settings)
        name = plain(task.attribute.name)
        sets = ", ".join(f"`{set_name}`" for set_name in settings.evaluate.test.sets)
        return CardText(
            summary=f"A CLIP whose notion of {name} was changed: {_did(values)}.",
            data={"attribute": name, "prompts": "; ".join(map(plain, task.attribute.prompts))},
            limits=[
                f"For studying or reducing how {name} enters answers and retrievals.",
                f"What was removed is what the labels of {sets} call {name}, with their prompts: labels of a "
                "person's gender or race are somebody's judgement and leave people out, and whatever goes along with "
                "them in these images (clothes, background) was changed too.",
                "Measured bias of CLIP models moves by up to 43 % under small changes of images and prompts "
                "(arXiv 2509.07596). This model is not free of bias, and no figure here shows that it is.",
                "A model that exaggerates or reverses a protected attribute does harm when it is used on people; such "
                "strengths are for analysis.",
            ],
        )

    def load(self, settings: TaskSettings, images: TaskImages) -> TaskData:
        from trainables.context.attribute_data import AttributeData

        return AttributeData(_attribute(settings), images)

    def measures(self) -> Measures:
        from trainables.evaluation.attribute import AttributeMeasures

        return AttributeMeasures()


def _attribute(settings: TaskSettings) -> AttributeSettings:
    assert isinstance(settings, AttributeSettings), "settings are read by the task that they name"
    return settings


def _skew(task: AttributeSettings) -> str:
    return f"max_skew_at_{task.attribute.top}"


def _bias_goal(task: AttributeSettings) -> Goal:
    if task.attribute.bias == "attribute_gap":
        title = "distance of attribute accuracy from chance"
        return Goal(
            metric="attribute_gap", direction="minimize", short="gap", title=title, best="least biased", view=None
        )
    title = f"MaxSkew among the best {task.attribute.top} retrievals"
    return Goal(metric=_skew(task), direction="minimize", short="skew", title=title, best="least biased", view=None)


def _did(values: TestedValues) -> str:
    metrics = ("attribute_accuracy", "content_accuracy")
    told = [
        f"{metric.replace('_', ' ')} {values.untouched[metric]:.3f} before, {values.test[metric]:.3f} now"
        for metric in metrics
        if metric in values.test and metric in values.untouched
    ]
    return ", ".join(told) or "it was not measured on test"
