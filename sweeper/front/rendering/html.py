"""The front as an interactive page that works without network."""

from __future__ import annotations

import base64
from html import escape
from typing import Any

from sweeper.front.correlation import lines as proxy_lines
from sweeper.front.rendering.style import (
    BASELINE_TITLES,
    COLOURS,
    UNTOUCHED_COLOUR,
    baseline_curves,
    colour,
    error_bar,
    label,
    objective_of,
)
from sweeper.front.rendering.table import rows, summary
from sweeper.records import Front, FrontPoint
from trainables.records import Goals, goal_values

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1300px; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; } p { margin: .2rem 0; color: #555; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; margin-top: 1rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th { cursor: pointer; border-bottom: 2px solid #888; } th:hover { background: #f0f0f0; }
td.text, th.text { text-align: left; } th.validation, td.validation { background: #f3f7fb; }
th.test, td.test { background: #fbf6ee; } th.confirmed, td.confirmed { background: #eef7f0; }
tr.member td { font-weight: 600; }
"""

_OVER_STRENGTH = "Over the strength of the weights: the untouched model at 0, the trained weights at 1."
_RETRIEVED = (
    "What fits queries best, before and after, each image framed by its value; singular values of W, each dot as large "
    "as the concept's share in its direction."
)

_SORT = """
document.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
  const body = document.querySelector("tbody"), up = head.dataset.up !== "1";
  document.querySelectorAll("th").forEach(other => delete other.dataset.up);
  head.dataset.up = up ? "1" : "0";
  const key = row => row.cells[column].dataset.value;
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    return up ? order : -order;
  };
  [...body.rows].sort((a, b) => compare(key(a), key(b))).forEach(row => body.append(row));
}));
"""


def html_page(front: Front, over_strength: bytes | None = None, drawn: bytes | None = None) -> str:
    """Return an HTML document with plotly inside (5 MB): the points with their parameters, and a sortable table.

    Args:
        over_strength: a PNG of the named trials over the strength.
        drawn: a PNG of retrievals and singular values.
    """
    chart = _chart(front).to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    title = escape(f"Pareto front of {front.sweep}")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head><body>
<h1>{title}</h1><p>{escape(summary(front))}.</p>
<p>Points are picked on validation; test is measured once per point and never fed back. Point at one for its parameters;
click an entry of the legend to hide it, a column to sort by it.</p>
{"".join(f"<p>{escape(line)}</p>" for line in proxy_lines(front))}
{chart}
{_image(over_strength, _OVER_STRENGTH)}
{_image(drawn, _RETRIEVED)}
<div class="scroll">{_table(front)}</div>
<script>{_SORT}</script></body></html>
"""


def _image(png: bytes | None, text: str) -> str:
    if png is None:
        return ""
    data = base64.b64encode(png).decode()
    return f'<p>{text}</p><img alt="{text}" style="max-width: 100%" src="data:image/png;base64,{data}">'


def _chart(front: Front) -> Any:
    from plotly.graph_objects import Figure
    from plotly.subplots import make_subplots

    measured = [point for point in front.points if point.values]
    titles = ["validation (picked on)"] + (["test (measured once, 95 % intervals)"] if measured else [])
    figure: Figure = make_subplots(
        1, len(titles), subplot_titles=titles, shared_xaxes="all", shared_yaxes="all", horizontal_spacing=0.06
    )
    members = [point for point in front.points if point.member]
    for name in (*COLOURS, "other"):
        others = [point for point in front.others if _objective(point) == name]
        _scatter(figure, front, 1, others, f"{name}, not on the front", "circle", 7, opacity=0.3)
    for name, curve in baseline_curves(front).items():
        title = f"{BASELINE_TITLES[name]} by strength"
        _scatter(figure, front, 1, curve, title, "diamond-open", 8, mode="lines+markers", shade="#444444")
    line = sorted(members, key=lambda point: front.oriented(point)[0])
    _scatter(figure, front, 1, line, "front", "circle", 0, mode="lines", shade="#222222", shape="vh")
    for column in (1, 2) if measured else (1,):
        shown = front.points if column == 1 else measured
        for name in (*COLOURS, "other"):
            drawn = [point for point in shown if point.member and _objective(point) == name and point.trial is not None]
            _scatter(figure, front, column, drawn, name, "circle", 12, legend=column == 1)
        for name, title in BASELINE_TITLES.items():
            baseline = [point for point in shown if point.name == name]
            _scatter(figure, front, column, baseline, title, "diamond", 12, shade="#444444", legend=column == 1)
        untouched = [point for point in shown if point.trial is None]
        _scatter(
            figure, front, column, untouched, "untouched model", "star", 18, shade=UNTOUCHED_COLOUR, legend=column == 1
        )
    figure.add_scatter(
        x=[front.reference_point[0]], y=[front.reference_point[1]], mode="markers", name="reference point",
        marker={"symbol": "cross-thin-open", "size": 12, "color": "#222222"}, row=1, col=1,
    )  # fmt: skip
    figure.update_xaxes(title_text=front.goals[0].title)
    figure.update_yaxes(title_text=front.goals[1].title, col=1)
    figure.update_layout(template="plotly_white", height=600, margin={"t": 40, "l": 60, "r": 20, "b": 60})
    return figure


def _scatter(
    figure: Any, front: Front, column: int, points: list[FrontPoint], name: str, symbol: str, size: int, *,
    mode: str = "markers", shade: str | None = None, opacity: float = 1.0, shape: str = "linear", legend: bool = True,
) -> None:  # fmt: skip
    if not points:
        return
    values = [point.validation if column == 1 else point.values or {} for point in points]
    bars: dict[str, dict[str, Any]] = {}
    if column == 2:
        for axis, goal in zip(("error_x", "error_y"), (goal.metric for goal in front.goals), strict=True):
            reach = [error_bar(point, goal) for point in points]
            bars[axis] = {"array": [above for _, above in reach], "arrayminus": [below for below, _ in reach]}
            bars[axis] |= {"thickness": 1, "width": 3}
    pairs = [goal_values(of_point, front.goals) for of_point in values]
    figure.add_scatter(
        x=[first for first, _ in pairs], y=[second for _, second in pairs], mode=mode, name=name,
         legendgroup=name, showlegend=legend, opacity=opacity,
        marker={"symbol": symbol, "size": size, "color": shade or colour(points[0])},
        line={"color": shade, "width": 1.5, "shape": shape, "dash": "dot" if "markers" in mode else "solid"},
        text=[_hover(point, front.goals) for point in points], hoverinfo="skip" if mode == "lines" else "text",
        row=1, col=column, **bars,
    )  # fmt: skip


def _objective(point: FrontPoint) -> str:
    name = objective_of(point)
    return name if name in COLOURS else "other"


def _hover(point: FrontPoint, goals: Goals) -> str:
    head = label(point) if point.trial is None else f"{label(point)} (trial {point.trial})"
    lines, metrics = [f"<b>{escape(head)}</b>"], [goal.metric for goal in goals]
    if point.trial is not None:
        lines.append(f"{point.weights} weights at strength {point.strength:g}")
    if point.sweep is not None:
        lines.append(escape(point.sweep))
    for title, values in (("validation", point.validation), ("test", point.values or {})):
        lines += [f"{title} {escape(key)}: {value:.4f}" for key, value in values.items() if key in metrics]
    if point.confirmation is not None and point.confirmation.values is not None:
        means, seeds = point.confirmation.values, point.confirmation.seeds
        lines += [f"test {escape(key)} over {seeds} new seeds: {means[key]:.4f}" for key in metrics if key in means]
    lines += [
        f"{escape(key)} = {escape(_short(value))}" for key, value in point.parameters.items() if value is not None
    ]
    return "<br>".join(lines)


def _table(front: Front) -> str:
    lines = rows(front)
    if not lines:
        return ""
    kinds = {key: _kind(key, [line[key] for line in lines]) for key in lines[0]}
    head = "".join(f'<th class="{kinds[key]}">{escape(key.replace("_", " "))}</th>' for key in lines[0])
    body = []
    for line in lines:
        cells = "".join(_cell(kinds[key], value) for key, value in line.items())
        body.append(f'<tr class="{"member" if line["member"] else "other"}">{cells}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _cell(kind: str, value: Any) -> str:
    exact = "" if value is None else escape(str(value))
    return f'<td class="{kind}" data-value="{exact}">{escape(_short(value))}</td>'


def _kind(key: str, values: list[Any]) -> str:
    text = "text" if any(isinstance(value, str) for value in values) else "number"
    prefix = key.partition("_")[0]
    return f"{text} {prefix}" if prefix in ("validation", "test", "confirmed") else text


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
