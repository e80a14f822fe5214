"""Two models on the same images: differences with paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sweeper.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from trainables.evaluation.answers import Answers


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measure of one view of one set; ``difference`` is second minus first."""

    set: str
    view: str
    measure: str
    images: int
    """That both answered."""
    first: float
    second: float
    difference: float
    low: float
    high: float
    """95 % paired bootstrap interval of the difference."""

    @property
    def verdict(self) -> str:
        if self.low > 0:
            return "second is higher"
        return "first is higher" if self.high < 0 else "not told apart"


def compare(first: Sequence[Answers], second: Sequence[Answers]) -> tuple[list[Comparison], list[str]]:
    """Every measure that both have, on the images that both answered; and what could not be compared.

    Raises UserError where they share no image, or mean different things by one image.
    """
    one_set = all(len({answers.set for answers in side}) == 1 for side in (first, second))
    theirs = {_key(one, one_set): one for one in second}
    found: list[Comparison] = []
    notes: list[str] = []
    together: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for one in first:
        other = theirs.pop(_key(one, one_set), None)
        if other is None:
            notes.append(f"{one.set}, {one.view}: only the first has it")
            continue
        common, missing = _common(one, other)
        if missing:
            notes.append(f"{one.set}, {one.view}: {missing} images that only one of them answered are left out")
        if not common:
            continue
        ours, his = _both_known(*(_taken(answers, common) for answers in (one, other)))
        for measure, pair in _pairs(ours, his).items():
            together.setdefault((one.view, measure), []).append(pair)
            found.append(_compared(one.set, one.view, measure, [pair]))
    notes += [f"{other.set}, {other.view}: only the second has it" for other in theirs.values()]
    if not found:
        raise UserError("the two have no images in common:\n" + "\n".join(notes))
    for (view, measure), pairs in together.items():
        if len(pairs) > 1:
            found.append(_compared("mean of sets", view, measure, pairs))
    return found, notes


def _key(one: Answers, one_set: bool) -> tuple[str, str]:
    """Files of one set each are compared whatever they call it."""
    return "" if one_set else one.set, one.view


def _common(first: Answers, second: Answers) -> tuple[list[str], int]:
    theirs = dict(zip(second.images, zip(second.true, second.written, strict=True), strict=True))
    common = [image for image in first.images if image in theirs]
    for image, label, word in zip(first.images, first.true, first.written, strict=True):
        true, written = theirs.get(image, (label, word))
        if true != label:
            raise UserError(
                f"{first.set}, {first.view}: the image {image} is {label!r} in the first and {true!r} in the second; "
                "they were not shown the same images"
            )
        if word and written and word != written:
            raise UserError(
                f"{first.set}, {first.view}: {word!r} is written on the image {image} in the first and {written!r} in "
                "the second; they were not shown the same images (evaluate both with one --seed and one --attack)"
            )
    return common, len(first.images) + len(second.images) - 2 * len(common)


def _taken(answers: Answers, images: Sequence[str]) -> Answers:
    row = {image: i for i, image in enumerate(answers.images)}
    index = [row[image] for image in images]

    def words(given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(given[i] for i in index)

    return replace(
        answers,
        images=words(answers.images),
        true=words(answers.true),
        written=words(answers.written),
        answer=None if answers.answer is None else words(answers.answer),
        margin=None if answers.margin is None else answers.margin[index],
        reference_kl=None if answers.reference_kl is None else answers.reference_kl[index],
    )


def _both_known(first: Answers, second: Answers) -> tuple[Answers, Answers]:
    """Scores of images that one of them has no score of are left out of both."""
    ours, theirs = first, second
    if first.margin is not None and second.margin is not None:
        no_score = 0 * (first.margin + second.margin)  # NaN where one of them is, else 0
        ours, theirs = replace(ours, margin=first.margin + no_score), replace(theirs, margin=second.margin + no_score)
    if first.reference_kl is not None and second.reference_kl is not None:
        no_score = 0 * (first.reference_kl + second.reference_kl)
        ours = replace(ours, reference_kl=first.reference_kl + no_score)
        theirs = replace(theirs, reference_kl=second.reference_kl + no_score)
    return ours, theirs


def _pairs(first: Answers, second: Answers) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    ours, theirs = first.measures(), second.measures()
    return {
        measure: (ours[measure], theirs[measure])
        for measure in ours
        if measure in theirs and len(ours[measure]) == len(theirs[measure])
    }


def _compared(name: str, view: str, measure: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Comparison:
    from trainables.evaluation.metrics import bootstrap_interval, mean_score

    differences = [second.astype(float) - first for first, second in pairs]
    low, high = bootstrap_interval(differences)
    return Comparison(
        set=name,
        view=view,
        measure=measure,
        images=sum(len(one) for one in differences),
        first=mean_score([first for first, _ in pairs]),
        second=mean_score([second for _, second in pairs]),
        difference=mean_score(differences),
        low=low,
        high=high,
    )
