"""Two models on the same images: differences with paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sweeper.errors import UserError
from trainables.spelling import label_form

if TYPE_CHECKING:
    import numpy as np

    from trainables.evaluation.answers import Answers


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on a measure of a set's view; ``difference`` is second minus first."""

    set: str
    view: str
    measure: str
    images: int
    """Number of images that both models answered."""
    first: float
    second: float
    difference: float
    low: float
    high: float
    """Upper end, with ``low`` the lower end, of the 95 % paired bootstrap interval of the difference."""

    @property
    def verdict(self) -> str:
        if self.low > 0:
            return "second is higher"
        return "first is higher" if self.high < 0 else "not told apart"


def compare(first: Sequence[Answers], second: Sequence[Answers]) -> tuple[list[Comparison], list[str]]:
    """Return every measure that both models have, on the images that both answered, and notes on the rest.

    Raises:
        UserError: they share no image, or an image has another label or another written word.
    """
    single_set = all(len({answers.set for answers in side}) == 1 for side in (first, second))
    unmatched = {_key(answers, single_set): answers for answers in second}
    comparisons: list[Comparison] = []
    notes: list[str] = []
    pairs_by_view: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for answers in first:
        other = unmatched.pop(_key(answers, single_set), None)
        if other is None:
            notes.append(f"{answers.set}, {answers.view}: only the first model has it")
            continue
        common, missing = _common(answers, other)
        if missing:
            notes.append(f"{answers.set}, {answers.view}: {missing} images that only one model answered are left out")
        if not common:
            continue
        paired = _with_common_scores(_restricted(answers, common), _restricted(other, common))
        for measure, pair in _pairs(*paired).items():
            pairs_by_view.setdefault((answers.view, measure), []).append(pair)
            comparisons.append(_comparison(answers.set, answers.view, measure, [pair]))
    notes += [f"{answers.set}, {answers.view}: only the second model has it" for answers in unmatched.values()]
    if not comparisons:
        raise UserError("the two models have no images in common:\n" + "\n".join(notes))
    for (view, measure), pairs in pairs_by_view.items():
        if len(pairs) > 1:
            comparisons.append(_comparison("mean of sets", view, measure, pairs))
    return comparisons, notes


def _key(answers: Answers, single_set: bool) -> tuple[str, str]:
    """Return the key by which answers are matched: set and view, or the view alone if both models have a single set."""
    return "" if single_set else answers.set, answers.view


def _common(first: Answers, second: Answers) -> tuple[list[str], int]:
    """Return the images that both models answered, and the number of images that only one of them did."""
    shown_to_second = dict(zip(second.images, zip(second.true, second.written, strict=True), strict=True))
    common = [image for image in first.images if image in shown_to_second]
    for image, label, word in zip(first.images, first.true, first.written, strict=True):
        true, written = shown_to_second.get(image, (label, word))
        if label_form(true) != label_form(label):
            raise UserError(
                f"{first.set}, {first.view}: the image {image} is {label!r} in the first and {true!r} in the second; "
                "they were not shown the same images"
            )
        if word and written and label_form(word) != label_form(written):
            raise UserError(
                f"{first.set}, {first.view}: {word!r} is written on the image {image} in the first and {written!r} in "
                "the second; they were not shown the same images (evaluate both with one --seed and one --attack)"
            )
    return common, len(first.images) + len(second.images) - 2 * len(common)


def _restricted(answers: Answers, images: Sequence[str]) -> Answers:
    row = {image: i for i, image in enumerate(answers.images)}
    index = [row[image] for image in images]

    def at_index(column: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(column[i] for i in index)

    return replace(
        answers,
        images=at_index(answers.images),
        true=at_index(answers.true),
        written=at_index(answers.written),
        answer=None if answers.answer is None else at_index(answers.answer),
        margin=None if answers.margin is None else answers.margin[index],
        reference_kl=None if answers.reference_kl is None else answers.reference_kl[index],
    )


def _with_common_scores(first: Answers, second: Answers) -> tuple[Answers, Answers]:
    """Return both with NaN for every score that the other lacks: such images count for neither."""
    if first.margin is not None and second.margin is not None:
        nan_or_zero = 0 * (first.margin + second.margin)
        first, second = (replace(side, margin=side.margin + nan_or_zero) for side in (first, second))
    if first.reference_kl is not None and second.reference_kl is not None:
        nan_or_zero = 0 * (first.reference_kl + second.reference_kl)
        first, second = (replace(side, reference_kl=side.reference_kl + nan_or_zero) for side in (first, second))
    return first, second


def _pairs(first: Answers, second: Answers) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return for each measure the scores of both models, image by image."""
    first_scores, second_scores = first.measures(), second.measures()
    return {
        measure: (scores, second_scores[measure])
        for measure, scores in first_scores.items()
        if measure in second_scores and len(scores) == len(second_scores[measure])
    }


def _comparison(name: str, view: str, measure: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Comparison:
    from trainables.evaluation.metrics import bootstrap_interval, mean_score

    differences = [second.astype(float) - first for first, second in pairs]
    low, high = bootstrap_interval(differences)
    return Comparison(
        set=name,
        view=view,
        measure=measure,
        images=sum(map(len, differences)),
        first=mean_score([first for first, _ in pairs]),
        second=mean_score([second for _, second in pairs]),
        difference=mean_score(differences),
        low=low,
        high=high,
    )
