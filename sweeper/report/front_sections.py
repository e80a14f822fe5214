"""The sections of a report about the points of a front: what they reach, what the knee costs, where it was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sweeper.front.rendering.style import is_baseline, label, objective_of
from sweeper.models.compare import compare
from sweeper.records import Front, FrontPoint
from sweeper.report.numbers import Bounded, Cell, Section, Table, Text, bounded, number, optional
from sweeper.spec.spec import Spec
from trainables.evaluation.answers import Answers
from trainables.evaluation.metrics import bootstrap_interval, mean_score

MOST_POINTS = 100
"""Number of points in the table of the front; points.csv has all."""

AnswersOf = Mapping[str, Sequence[Answers]]
"""Key of a point -> its answers on the test images."""


def keys_of(front: Front) -> dict[str, FrontPoint]:
    """Return the points of a front by their keys in a report: the name, or trial, weights and strength."""
    names = [point.name for point in front.points]
    return {
        point.name
        if point.name is not None and names.count(point.name) == 1
        else f"trial {point.trial} {point.weights} {point.strength:g}": point
        for point in front.points
    }


def named(front: Front) -> dict[str, FrontPoint]:
    """Return the points with a name, the untouched model first, by their keys."""
    points = {key: point for key, point in keys_of(front).items() if point.name is not None}
    return dict(sorted(points.items(), key=lambda pair: pair[1].trial is not None))


def front_section(front: Front) -> Section:
    """Return the section with the points of the front, their goals and intervals."""
    first, second = front.goals
    members = sum(point.member for point in front.points)
    counted: Text = (
        "Points of trials on the front: ",
        number("front/members", members, "count"),
        "; hypervolume on validation ",
        number("front/hypervolume", front.hypervolume, "four"),
        f" over ({first.short} ",
        number("front/reference/first", front.reference_point[0]),
        f", {second.short} ",
        number("front/reference/second", front.reference_point[1]),
        "). ",
        number("front/finished", front.finished, "count"),
        " of ",
        number("front/planned", front.trials, "count"),
        " trials have ended.",
    )
    texts: list[Text] = [counted, (_PICKED,)]
    if front.kept:
        texts.append((f"Points of the front had to keep, on validation: {', '.join(front.kept.values())}.",))
    if front.second_look is not None:
        looked = front.second_look
        texts.append((
            "The front was chosen with a second look: ", number("front/second look/points", looked.points, "count"),
            " points were measured on ", number("front/second look/images", looked.images, "count"),
            " validation images that the search did not see; ", number("front/second look/new", looked.new, "count"),
            " members are on the front only because of these.",
        ))  # fmt: skip
    else:
        texts.append(("There was no second look: the front was chosen on the images that the search saw.",))
    shown = dict(list(keys_of(front).items())[:MOST_POINTS])
    if len(shown) < len(front.points):
        left_out = number("front/left out", len(front.points) - len(shown), "count")
        texts.append((left_out, " further points are in tables/points.csv."))
    heading = ["point", "trial", "objective", "tune", "weights", "strength"]
    heading += [f"validation {goal.short}" for goal in front.goals] + ["validation images"]
    heading += [f"test {goal.short}" for goal in front.goals]
    rows = tuple(_front_row(key, point, front) for key, point in shown.items())
    tables = [Table(name="front", title="Points of the front, and baselines", columns=tuple(heading), rows=rows)]
    retrained = _retrained(front)
    if retrained is None:
        texts.append(("No point was trained again with other seeds.",))
    else:
        texts.append((_RETRAINED,))
        tables.append(retrained)
    return Section(name="front", title="The front", texts=tuple(texts), tables=tuple(tables), figures=("front",))


def knee_section(front: Front, spec: Spec, answers: AnswersOf) -> Section:
    """Return the section on what changes from the untouched model to the knee."""
    points, title = keys_of(front), "The knee, and what it costs"
    knee, untouched = points.get("knee"), points.get("untouched")
    if knee is None or untouched is None:
        return Section(name="knee", title=title, texts=(("The front has no knee: no trial is on it.",),))
    origin: Text = (
        "The knee is trial ",
        number("knee/trial", knee.trial or 0, "count"),
        f" ({_how(knee)}), {knee.weights} weights at strength ",
        number("knee/strength", knee.strength, "short"),
        ": the best compromise on validation, by the sum of both goals, each scaled between its ends on the front.",
    )
    if knee.values is None or untouched.values is None:
        rows = _validation_changes(front, knee, untouched)
        texts: tuple[Text, ...] = (origin, ("It was not measured on test yet; these are values on validation.",))
        columns = ("metric", "untouched", "knee", "difference")
        return Section(
            name="knee",
            title=title,
            texts=texts,
            tables=(Table(name="knee", title="From the untouched model to the knee", columns=columns, rows=rows),),
        )
    paired = _paired(answers, spec.kind.goal_sets(spec))
    rows = tuple(
        (
            metric.replace("_", " "),
            number(f"knee/test/{metric}/untouched", untouched.values[metric]),
            number(f"knee/test/{metric}/knee", value),
            _difference(f"knee/test/{metric}/difference", value - untouched.values[metric], paired.get(metric)),
            spec.kind.about(metric) or "",
        )
        for metric, value in knee.values.items()
        if metric in untouched.values and "/" not in metric
    )
    texts = (
        origin,
        (
            "On test. Intervals of differences are 95 % paired bootstrap intervals over images, given where the metric "
            "is a mean over images.",
        ),
    )
    table = Table(
        name="knee",
        title="From the untouched model to the knee",
        columns=("metric", "untouched", "knee", "difference", "meaning"),
        rows=rows,
    )
    return Section(name="knee", title=title, texts=texts, tables=(table,))


def strengths_section(front: Front) -> Section:
    """Return the section with the metrics over the strength of the named trials' weights."""
    title, everything = "Strength", (*front.points, *front.others)
    trials = dict.fromkeys(
        point.trial for point in sorted(front.points, key=is_baseline) if point.name and point.trial is not None
    )
    rows: list[tuple[Cell, ...]] = []
    for trial in trials:
        course = sorted(
            (point for point in everything if point.trial == trial and point.weights == "last"),
            key=lambda point: point.strength,
        )
        names = ", ".join(label(point) for point in front.points if point.trial == trial and point.name)
        for point in course if len(course) > 1 else ():
            key = f"strengths/trial {trial}/{point.strength:g}"
            cells = [optional(f"{key}/{metric}", point.validation.get(metric)) for metric in front.curves]
            rows.append((names, _of(f"{key}/trial", trial), number(f"{key}/strength", point.strength, "short"), *cells))
    if not rows:
        text = ("No named trial was measured at several strengths.",)
        return Section(name="strengths", title=title, texts=(text,))
    columns = ("point", "trial", "strength", *(metric.replace("_", " ") for metric in front.curves))
    table = Table(name="strengths", title="Over the strength, on validation", columns=columns, rows=tuple(rows))
    text = ("Strength 0 is the untouched model, 1 the trained weights. On validation, weights after the last step.",)
    return Section(name="strengths", title=title, texts=(text,), tables=(table,), figures=("curves",))


def sets_section(front: Front, answers: AnswersOf) -> Section:
    """Return the section with each test set by itself, computed from the answers image by image."""
    title = "Each test set by itself"
    columns = {key: answers[key] for key in named(front) if key in answers}
    if not columns:
        return Section(name="sets", title=title, texts=(("No point was measured on test yet.",),))
    rows: list[tuple[Cell, ...]] = []
    for place in dict.fromkeys((of_view.set, of_view.view) for of_set in columns.values() for of_view in of_set):
        by_point = {
            key: {name: scores for view in of_sets if (view.set, view.view) == place
                  for name, scores in view.measures().items()}
            for key, of_sets in columns.items()
        }  # fmt: skip
        for measure in dict.fromkeys(name for measures in by_point.values() for name in measures):
            base = f"sets/{place[0]}/{place[1]}/{measure}"
            cells: list[Cell] = []
            images = max(len(measures[measure]) for measures in by_point.values() if measure in measures)
            for key, measures in by_point.items():
                scores = measures.get(measure)
                if scores is None:
                    cells.append(None)
                    continue
                # The bootstrap of scores that are not right or wrong would take seconds per cell.
                interval = bootstrap_interval([scores]) if scores.dtype == bool else None
                cells.append(bounded(f"{base}/{key}", mean_score([scores]), interval))
            count = number(f"{base}/images", images, "count")
            rows.append((place[0], place[1], measure.replace("_", " "), count, *cells))
    points = keys_of(front)
    heading = ("set", "view", "measure", "images", *(label(points[key]) for key in columns))
    table = Table(
        name="sets", title="Each test set, from the answers image by image", columns=heading, rows=tuple(rows)
    )
    text = ("In brackets 95 % bootstrap intervals over the images of the set.",)
    return Section(name="sets", title=title, texts=(text,), tables=(table,))


def held_out_section(front: Front, spec: Spec) -> Section:
    """Return the section with attacks that were never trained on, and further test metrics that are no goals."""
    title, points = "Held-out attacks and further measurements", named(front)
    goals = {goal.metric for goal in front.goals}
    metrics = [
        metric
        for metric in dict.fromkeys(metric for point in points.values() for metric in point.values or {})
        if metric not in goals
    ]
    if not metrics:
        return Section(name="held-out", title=title, texts=(("No point was measured on test yet.",),))
    rows: list[tuple[Cell, ...]] = []
    for metric in metrics:
        cells = [
            bounded(f"held-out/{metric}/{key}", (point.values or {}).get(metric), (point.intervals or {}).get(metric))
            for key, point in points.items()
        ]
        rows.append((metric, *cells))
    heading = ("metric", *(label(point) for point in points.values()))
    held_out = any(metric.startswith(f"{front.goals[1].metric}/") for metric in metrics)
    about = [f"{metric}: {words}" for metric in metrics if (words := spec.kind.about(metric)) and "/" not in metric]
    texts: list[Text] = [("On test. In brackets 95 % bootstrap intervals over images.",)]
    if held_out:
        texts.append((f"Names after {front.goals[1].metric}/ are attacks that preference data never show.",))
    else:
        texts.append(("No attacks were held out in this sweep.",))
    texts += [("; ".join(about) + ".",)] if about else []
    table = Table(name="held_out", title="Held-out attacks and further metrics", columns=heading, rows=tuple(rows))
    return Section(name="held-out", title=title, texts=tuple(texts), tables=(table,))


_PICKED = (
    "Points were picked on validation, as the best of many: their values there are too good. Test was measured "
    "afterwards, once, and decided nothing. In brackets 95 % bootstrap intervals over the test images."
)
_RETRAINED = (
    "Members that were trained again with new seeds: means over the seeds, and in brackets the 95 % interval of what "
    "to expect of one more seed on other images. `simultaneous` holds for all of these members at once."
)


def _front_row(key: str, point: FrontPoint, front: Front) -> tuple[Cell, ...]:
    base, trained = f"front/{key}", point.trial is not None
    return (
        label(point) if point.name or not trained else "",
        _of(f"{base}/trial", point.trial),
        objective_of(point) if trained else None,
        str(point.parameters.get("tune", "-")) if trained else None,
        point.weights if trained else None,
        number(f"{base}/strength", point.strength, "short") if trained else None,
        *(optional(f"{base}/validation/{goal.metric}", point.validation.get(goal.metric)) for goal in front.goals),
        optional(f"{base}/validation/images", point.images, "count"),
        *(
            bounded(
                f"{base}/test/{goal.metric}",
                (point.values or {}).get(goal.metric),
                (point.intervals or {}).get(goal.metric),
            )
            for goal in front.goals
        ),
    )


def _retrained(front: Front) -> Table | None:
    """Return the table of members that were trained again; None if there are none."""
    rows: list[tuple[Cell, ...]] = []
    for key, point in keys_of(front).items():
        confirmation, base = point.confirmation, f"seeds/{key}"
        if confirmation is None:
            continue
        cells: list[Cell] = [
            label(point) if point.name else "",
            _of(f"{base}/trial", point.trial),
            number(f"{base}/seeds", confirmation.seeds, "count"),
            number(f"{base}/failed", confirmation.failed, "count"),
            "yes" if confirmation.stays else "no",
        ]
        metrics = [goal.metric for goal in front.goals]
        for metric in metrics:
            cells.append(optional(f"{base}/validation/{metric}", (confirmation.validation or {}).get(metric)))
        for metric in metrics:
            value = (confirmation.values or {}).get(metric)
            cells.append(bounded(f"{base}/test/{metric}", value, (confirmation.intervals or {}).get(metric)))
            at_once = bounded(f"{base}/simultaneous/{metric}", value, (confirmation.simultaneous or {}).get(metric))
            cells.append(at_once if isinstance(at_once, Bounded) else None)
        rows.append(tuple(cells))
    heading = ["point", "trial", "seeds", "failed", "stays on the front"]
    heading += [f"validation {goal.short}" for goal in front.goals]
    for goal in front.goals:
        heading += [f"test {goal.short}", f"test {goal.short}, simultaneous"]
    return Table(name="seeds", title="Trained again", columns=tuple(heading), rows=tuple(rows)) if rows else None


def _paired(answers: AnswersOf, sets: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the paired interval of the knee minus the untouched model for each metric that answers determine."""
    sides = [[told for told in answers.get(key, ()) if told.set in sets] for key in ("untouched", "knee")]
    if not all(sides):
        return {}
    views = {
        ("clean", "accuracy"): ("clean_accuracy", "content_accuracy"),
        ("attacked", "accuracy"): ("robust_accuracy",),
        ("attacked", "text_confusion_rate"): ("text_confusion_rate",),
        ("attacked", "two_way_accuracy"): ("two_way_accuracy",),
    }
    comparisons, _ = compare(*sides)
    several = len({told.set for told in sides[0]}) > 1
    return {
        metric: (compared.low, compared.high)
        for compared in comparisons
        if (compared.set == "mean of sets") == several
        for metric in views.get((compared.view, compared.measure), ())
    }


def _difference(key: str, value: float, interval: tuple[float, float] | None) -> Cell:
    shown = number(key, value, "signed")
    if interval is None:
        return shown
    low, high = interval
    return Bounded(value=shown, low=number(f"{key}/low", low, "signed"), high=number(f"{key}/high", high, "signed"))


def _validation_changes(front: Front, knee: FrontPoint, untouched: FrontPoint) -> tuple[tuple[Cell, ...], ...]:
    def rows() -> Iterator[tuple[Cell, ...]]:
        for metric, value in knee.validation.items():
            if metric not in untouched.validation:
                continue
            before, base = untouched.validation[metric], f"knee/validation/{metric}"
            yield (
                metric.replace("_", " "),
                number(f"{base}/untouched", before),
                number(f"{base}/knee", value),
                number(f"{base}/difference", value - before, "signed"),
            )

    return tuple(rows())


def _how(point: FrontPoint) -> str:
    return " ".join(word for word in (objective_of(point), str(point.parameters.get("tune", ""))) if word)


def _of(key: str, trial: int | None) -> Cell:
    return optional(key, trial, "count")
