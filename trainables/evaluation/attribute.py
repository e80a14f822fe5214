"""Measurement of a policy in the attribute task: content, attribute, and the skew of retrievals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.context.attribute_data import AttributeData, LabelledSet
from trainables.context.task import Validation
from trainables.context.trial_context import TrialContext
from trainables.data.image_set import ImageSet
from trainables.distributed import WorkerGroup
from trainables.evaluation import retrieval
from trainables.evaluation.answers import CLEAN, Answers, write_answers
from trainables.evaluation.metrics import bootstrap_interval, mean_score
from trainables.evaluation.predictions import accuracy as accuracy_of
from trainables.evaluation.predictions import image_kl, predict, word_indices
from trainables.evaluation.retrieved import BEST, QUERIES, SIDE_PX, SUFFIX, Retrieved
from trainables.memory import in_batches
from trainables.models.concept import Concept, needed_ratio
from trainables.models.policy import Policy, TransformPolicy
from trainables.records import Measurement
from trainables.settings.attribute import AttributeSection, AttributeSettings

ATTRIBUTE_VIEW = "attribute"
RESAMPLES = 400
"""Number of bootstrap resamples of the images, for intervals of skew."""
FOLDS = 10
"""Number of random halves of the images, as in SEM and BendVLM."""
HIGHEST_RATIO = 5.0
"""Singular-value ratio above which reversals were measured to cost content: docs/attributes.md."""
LARGEST_STRENGTH = 1.25
"""Upper end of the range in which the neutral strength is searched; the lower end is 0."""


@dataclass(frozen=True)
class Looked:
    """Outputs of a policy for the N images of a set."""

    content: np.ndarray
    """(N,) content with the highest logit among the neutral prompts."""
    value_logits: np.ndarray
    """(N, V) logits of the prompts that name the image's own content and each value."""
    similarities: np.ndarray
    """(N, Q) cosines with the queries."""
    reference_kl: np.ndarray
    """(N,) KL(reference || policy) over the neutral prompts, in nats."""


class AttributeMeasures:
    """Implements ``Measures``."""

    def findings(self, context: TrialContext) -> list[str]:
        """Return lines about whether one W can reverse the attribute, and about m0."""
        name, concept, margin = settings_of(context).attribute.name, context.concept(), context.mean_margin()
        cosine, by_class = concept.cosine(), [one for one in concept.class_cosines() if np.isfinite(one)]
        ratio = needed_ratio(cosine)
        lines = [
            f"{name}: its directions in images and in prompts have a cosine of {cosine:.3f} "
            f"({min(by_class):.3f} to {max(by_class):.3f} by content)",
            f"{name}: to reverse it, one W for both towers needs singular values of a ratio of {ratio:.2f}",
            f"{name}: m0, the reference's mean margin between true and other values, is {margin:.2f} nats",
        ]
        if ratio > HIGHEST_RATIO:
            lines.append(
                f"{name}: it cannot be reversed with one W without losing content; write towers: separate, or the "
                "targets neutral and equal"
            )
        if len(data_of(context).search_sets[0].images.value_names) > 2:
            lines.append(f"{name}: of its values, these are about the first two")
        return lines

    def validation(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> Validation:
        values = mean_values(context, policy, data_of(context).search_sets, group)
        return Validation(values=values, hits={})  # skew is not a mean over images

    def kept(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> dict[str, float]:
        data = data_of(context)
        names = [metric.removesuffix("/zero_shot_accuracy") for metric in context.task.keep if "/" in metric]
        kept = {}
        for name in names:
            images = data.retention(name, "validation")
            kept[f"{name}/zero_shot_accuracy"] = float(_zero_shot(context, policy, images, group).mean())
        return kept

    def second_look(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> dict[str, float]:
        return mean_values(context, policy, data_of(context).unseen_sets, group)

    def test(
        self, context: TrialContext, policy: Policy, group: WorkerGroup, *, variants: bool, answers: Path | None = None
    ) -> Measurement:
        data, settings = data_of(context), settings_of(context)
        section = settings.attribute
        looked = [(tested, look(context, policy, tested, group)) for tested in data.test_sets]
        if answers is not None and group.is_first:
            write_answers(answers, [told for tested, seen in looked for told in answers_of(tested, seen)])
            tested, seen = looked[0]
            drawn = retrieved(tested, seen.similarities, policy, context.concept())
            drawn.write(answers.with_name(answers.name.partition(".csv")[0] + SUFFIX))
        of_sets = [
            values_of(section, tested, seen) | further_values_of(section, tested, seen) for tested, seen in looked
        ]
        values = {metric: float(np.mean([of_set[metric] for of_set in of_sets])) for metric in of_sets[0]}
        intervals = intervals_of(section, looked)
        if len(looked) > 1:
            for (tested, _), of_set in zip(looked, of_sets, strict=True):
                values |= {f"{tested.images.name.partition('/')[0]}/{metric}": of_set[metric] for metric in of_set}
        for name in settings.evaluate.retention if variants else ():
            hits = _zero_shot(context, policy, data.retention(name, "test"), group)
            values[f"{name}/zero_shot_accuracy"] = float(hits.mean())
            intervals[f"{name}/zero_shot_accuracy"] = bootstrap_interval([hits])
        images = sum(len(tested.images.keys) for tested, _ in looked)
        return Measurement(values=values, intervals=intervals, images=images, broken=context.data.broken())

    def solved_strength(self, context: TrialContext, policy: Policy, weights: Mapping[str, Tensor]) -> float | None:
        """Return the strength of a transform at which the mean margin between the true and the other values changes its
        sign on validation; None if it does not, and for other policies.

        The root is computed instead of the best of a grid: it can lie at .06, and accuracy changes steeply there.
        """
        if not isinstance(policy, TransformPolicy):
            return None

        def margin(strength: float) -> float:
            policy.set_weights(weights, strength)
            sets = data_of(context).search_sets
            return float(np.mean([_mean_margin(context, policy, searched) for searched in sets]))

        return _root(margin, LARGEST_STRENGTH)


def data_of(context: TrialContext) -> AttributeData:
    assert isinstance(context.data, AttributeData), "the context of an attribute task"
    return context.data


def settings_of(context: TrialContext) -> AttributeSettings:
    assert isinstance(context.task, AttributeSettings), "the context of an attribute task"
    return context.task


@torch.no_grad()
def look(context: TrialContext, policy: Policy, labelled: LabelledSet, group: WorkerGroup) -> Looked:
    """Return the policy's outputs for a set. Each worker evaluates the rows ``rank::world_size``; all get all."""
    inputs, images, view = context.inputs, labelled.images, labelled.images.view()
    texts = [policy.text_embeddings(inputs.measured_prompts(policy, p.names, p.templates)) for p in labelled.prompts]
    neutral, of_values, queries = texts
    contents, count_v = len(images.class_names), len(images.value_names)
    reference_text = context.reference.text_embeddings(labelled.neutral.names, labelled.neutral.templates)
    reference = context.reference.embeddings(view)
    rows_of_worker = torch.arange(len(view.labels))[group.rank :: group.world_size]
    labels = view.labels.to(group.device)
    table = torch.zeros(len(view.labels), 2 + count_v + len(queries), dtype=torch.float64, device=group.device)

    def look_at_batch(rows: Tensor) -> bool:
        embedded = policy.image_embeddings(inputs.rows(policy, view, rows))
        logits = policy.logits(embedded, neutral)
        index = rows.to(embedded.device)
        own = torch.arange(count_v, device=embedded.device) * contents + labels[index][:, None]
        table[index, 0] = logits.argmax(-1).to(table)
        table[index, 1] = image_kl(logits, context.reference.logits(reference[index], reference_text)).to(table)
        table[index, 2 : 2 + count_v] = policy.logits(embedded, of_values).gather(1, own).to(table)
        table[index, 2 + count_v :] = (embedded @ queries.T).to(table)
        return True

    sizes = context.batch_sizes
    _, sizes.evaluation = in_batches(rows_of_worker, sizes.evaluation, look_at_batch, "scoring images")
    seen = group.sum(table).cpu().numpy()
    return Looked(seen[:, 0].astype(np.int64), seen[:, 2 : 2 + count_v], seen[:, 2 + count_v :], seen[:, 1])


def content_hits(labelled: LabelledSet, seen: Looked) -> np.ndarray:
    """Return whether the content of each image was answered correctly, by its words: (N,) bool."""
    words = word_indices(labelled.images.class_names)
    return np.asarray(words[seen.content] == words[labelled.images.labels.numpy()])


def attribute_hits(labelled: LabelledSet, seen: Looked) -> np.ndarray:
    """Return whether the value of each image was answered correctly, given the content: (N,) bool."""
    return np.asarray(seen.value_logits.argmax(1) == labelled.values.numpy())


def mean_values(
    context: TrialContext, policy: Policy, sets: Sequence[LabelledSet], group: WorkerGroup
) -> dict[str, float]:
    """Return the metrics that every evaluation has, means over sets."""
    section = settings_of(context).attribute
    of_sets = [values_of(section, labelled, look(context, policy, labelled, group)) for labelled in sets]
    return {metric: float(np.mean([values[metric] for values in of_sets])) for metric in of_sets[0]}


def values_of(section: AttributeSection, labelled: LabelledSet, seen: Looked) -> dict[str, float]:
    """Return the metrics that every evaluation has, of one set."""
    content, attribute, of_images = (
        content_hits(labelled, seen),
        attribute_hits(labelled, seen),
        labelled.values.numpy(),
    )
    count_v, top = len(labelled.images.value_names), min(section.top, len(of_images))
    probabilities = torch.from_numpy(seen.value_logits).softmax(1).numpy()
    groups = labelled.images.labels.numpy() * count_v + of_images
    ranked = of_images[retrieval.rankings(seen.similarities, top)]
    shares = retrieval.top_shares(ranked, top, count_v)
    skew = retrieval.max_skew(shares, retrieval.equal_target(count_v), zero=1 / top).mean()
    return {
        "content_accuracy": float(content.mean()),
        "attribute_accuracy": float(attribute.mean()),
        "attribute_gap": abs(float(attribute.mean()) - 1 / count_v),
        "attribute_certainty": float((count_v * probabilities.max(1) - 1).mean() / (count_v - 1)),
        "worst_group_accuracy": min(float(content[groups == one].mean()) for one in np.unique(groups)),
        skew_name(section): float(skew),
        "reference_kl": float(seen.reference_kl.mean()),
    }


def further_values_of(section: AttributeSection, labelled: LabelledSet, seen: Looked) -> dict[str, float]:
    """Return the metrics that only a test has: variants of skew as in published code, and groups."""
    of_images, top = labelled.values.numpy(), min(section.top, len(labelled.values))
    count_v = len(labelled.images.value_names)
    ranked = of_images[retrieval.rankings(seen.similarities, top)]
    shares = retrieval.top_shares(ranked, top, count_v)
    equal, of_set = retrieval.equal_target(count_v), retrieval.set_target(of_images, count_v)
    sem_skew, sem_kl = retrieval.folded_max_skew(seen.similarities, of_images, top, count_v, folds=FOLDS)
    at = section.top
    values = {
        f"kl_at_{at}": float(retrieval.kl(shares, equal).mean()),
        f"ndkl_at_{at}": float(retrieval.ndkl(ranked, equal).mean()),
        f"max_skew_at_{at}_dem_par": float(retrieval.max_skew(shares, of_set, zero=1 / top).mean()),
        f"max_skew_at_{at}_sem": sem_skew,
        f"kl_at_{at}_sem": sem_kl,
    }
    attribute, content = attribute_hits(labelled, seen), content_hits(labelled, seen)
    for value, name in enumerate(labelled.images.value_names):
        rows = of_images == value
        values[f"attribute_accuracy/{name}"] = float(attribute[rows].mean())
        values[f"content_accuracy/{name}"] = float(content[rows].mean())
    return values


def intervals_of(
    section: AttributeSection, looked: Sequence[tuple[LabelledSet, Looked]]
) -> dict[str, tuple[float, float]]:
    """Return 95 % bootstrap intervals over the images of accuracies, KL and skew, means over sets."""
    content = [content_hits(tested, seen) for tested, seen in looked]
    attribute = [attribute_hits(tested, seen) for tested, seen in looked]
    intervals = {
        "content_accuracy": bootstrap_interval(content),
        "attribute_accuracy": bootstrap_interval(attribute),
        "reference_kl": bootstrap_interval([seen.reference_kl for _, seen in looked]),
    }
    low, high = intervals["attribute_accuracy"]
    chance = mean_score([np.full(1, 1 / len(tested.images.value_names)) for tested, _ in looked])
    ends = abs(low - chance), abs(high - chance)
    intervals["attribute_gap"] = (0.0 if low <= chance <= high else min(ends), max(ends))
    resampled = np.mean([resampled_skew(section, tested, seen) for tested, seen in looked], axis=0)
    value = float(np.mean([values_of(section, tested, seen)[skew_name(section)] for tested, seen in looked]))
    intervals[skew_name(section)] = retrieval.shifted_interval(resampled, value)
    return intervals


def resampled_skew(section: AttributeSection, labelled: LabelledSet, seen: Looked) -> np.ndarray:
    """Return MaxSkew of bootstrap resamples of the images (RESAMPLES,); every model gets the same resamples."""
    target = retrieval.equal_target(len(labelled.images.value_names))
    of_images = labelled.values.numpy()
    return retrieval.resampled_max_skew(seen.similarities, of_images, section.top, target, resamples=RESAMPLES)


def skew_name(section: AttributeSection) -> str:
    """Return the name of the metric MaxSkew against equal shares, a share of zero counted as 1 / K."""
    return f"max_skew_at_{section.top}"


def answers_of(labelled: LabelledSet, seen: Looked) -> list[Answers]:
    """Return the policy's answers in words: the contents, and the values of the attribute."""
    images = labelled.images
    nothing = ("",) * len(images.keys)
    contents, values = images.class_names, images.value_names
    return [
        Answers(
            set=images.name,
            view=CLEAN,
            images=images.keys,
            true=tuple(contents[i] for i in images.labels.tolist()),
            written=nothing,
            answer=tuple(contents[i] for i in seen.content.tolist()),
            reference_kl=seen.reference_kl,
        ),
        Answers(
            set=images.name,
            view=ATTRIBUTE_VIEW,
            images=images.keys,
            true=tuple(values[i] for i in labelled.values.tolist()),
            written=nothing,
            answer=tuple(values[i] for i in seen.value_logits.argmax(1).tolist()),
        ),
    ]


def retrieved(labelled: LabelledSet, similarities: np.ndarray, policy: Policy, concept: Concept) -> Retrieved:
    """Return the data of the concept's picture.

    Args:
        similarities: (N, Q) of images and queries.
    """
    prompts = labelled.queries
    rows = np.argsort(-similarities[:, :QUERIES], axis=0, kind="stable")[:BEST].T
    best = labelled.images.images[torch.from_numpy(rows.copy()).flatten()].float().permute(0, 3, 1, 2)
    small = F.interpolate(best, size=(SIDE_PX, SIDE_PX), mode="area").permute(0, 2, 3, 1).round().to(torch.uint8)
    values, shares = np.zeros(0), np.zeros(0)
    if isinstance(policy, TransformPolicy):
        _, of_w, directions = torch.linalg.svd(policy.matrix.detach().double().cpu(), full_matrices=False)
        both = torch.stack([concept.image_direction, concept.text_direction]).double().cpu()
        values = of_w.numpy()
        shares = (F.normalize(both, dim=1) @ directions.T).square().mean(0).numpy()
    return Retrieved(
        queries=tuple(prompts.templates[0].format(name) for name in prompts.names[: rows.shape[0]]),
        value_names=labelled.images.value_names,
        images=small.reshape(*rows.shape, SIDE_PX, SIDE_PX, 3).numpy(),
        values=labelled.values.numpy()[rows],
        singular_values=values,
        concept_shares=shares,
    )


@torch.no_grad()
def _mean_margin(context: TrialContext, policy: TransformPolicy, labelled: LabelledSet) -> float:
    """Return the mean logit of the prompt with the true value minus the mean over prompts with the others, over groups.

    Every group of content and value counts the same.
    """
    images = labelled.images
    text = policy.text_embeddings(
        context.inputs.measured_prompts(policy, labelled.of_values.names, labelled.of_values.templates)
    )
    logits = policy.logits(policy.image_embeddings(context.reference.embeddings(images.view())), text).cpu()
    count_v, contents = len(images.value_names), len(images.class_names)
    own = logits.gather(1, torch.arange(count_v) * contents + images.labels[:, None])
    true = own.gather(1, labelled.values[:, None])[:, 0]
    margins = true - (own.sum(1) - true) / (count_v - 1)
    groups = images.labels * count_v + labelled.values
    sums = torch.zeros(contents * count_v).index_add(0, groups, margins)
    counts = torch.bincount(groups, minlength=contents * count_v)
    return float((sums[counts > 0] / counts[counts > 0]).mean())


def _root(
    function: Callable[[float], float], highest: float, *, steps: int = 25, tolerance: float = 1e-4
) -> float | None:
    """Return the first root in [0, highest] of a function that is positive at 0; None if there is none."""
    low, value = 0.0, function(0.0)
    for step in range(1, steps + 1):
        high = highest * step / steps
        at_high = function(high)
        if value > 0 >= at_high:
            while high - low > tolerance:
                middle = (low + high) / 2
                low, high = (middle, high) if function(middle) > 0 else (low, middle)
            return round((low + high) / 2, 4)
        low, value = high, at_high
    return None


def _zero_shot(context: TrialContext, policy: Policy, images: ImageSet, group: WorkerGroup) -> np.ndarray:
    view = images.view()
    return accuracy_of(predict(context, policy, images, view, group), images, view)
