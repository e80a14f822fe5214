"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const search = data.search;
const RELOAD_MS = 15000;
const NEAR_PX = 28;
const GREY = "#444444";
const SIDES = [0, 1];
const byId = id => document.getElementById(id);
const words = name => String(name).replaceAll("_", " ");

// ---- numbers ----

// Three decimals as Python writes them: odd sixteenths are the only exact ties, and Python rounds these to even.
const three = value => {
  if (value === null || value === undefined) return "";
  const text = value.toFixed(3);
  if (Math.abs(value * 16 % 2) !== 1) return text;
  const down = Math.floor(value * 1000), even = down % 2 === 0 ? down : down + 1;
  return (even / 1000).toFixed(3);
};
const short = value => {
  if (typeof value !== "number" || Number.isInteger(value)) return words(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(value);
};
const strengthText = point => String(+three(point.strength));
const bounded = (value, low, high) => low === high ? three(value) : `${three(value)} [${three(low)}, ${three(high)}]`;

const ticks = (low, high, most) => {
  const rough = (high - low) / Math.max(1, most), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(candidate => candidate >= rough * 0.999);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const values = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) values.push(k * step);
  return values.map(value => [value, value.toFixed(decimals)]);
};
const logTicks = (low, high) => {
  const values = [];
  for (let k = Math.ceil(Math.log10(low) - 1e-9); k <= Math.log10(high) + 1e-9; k++) values.push(10 ** k);
  const every = Math.ceil(values.length / 4);
  const kept = values.filter((_, i) => i % every === 0);
  return (kept.length > 1 ? kept : [low, high]).map(value => [value, value >= 1e-3 && value < 1e5 ? String(+value.toPrecision(2)) : value.toExponential(value === 10 ** Math.round(Math.log10(value)) ? 0 : 1)]);
};

// ---- elements ----

const svgElement = (name, attributes = {}, parent = null, text = null) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  if (parent) parent.append(element);
  return element;
};
const htmlElement = (name, attributes = {}, parent = null, text = null) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  if (parent) parent.append(element);
  return element;
};
const starPath = radius => {
  const corners = [...Array(10).keys()].map(i => {
    const angle = Math.PI * i / 5, reach = i % 2 ? radius * 0.45 : radius;
    return `${(reach * Math.sin(angle)).toFixed(2)},${(-reach * Math.cos(angle)).toFixed(2)}`;
  });
  return `M${corners.join("L")}Z`;
};
const SHAPES = {
  circle: radius => `M${-radius},0a${radius},${radius} 0 1,0 ${2 * radius},0a${radius},${radius} 0 1,0 ${-2 * radius},0Z`,
  diamond: radius => `M0,${-radius}L${radius},0L0,${radius}L${-radius},0Z`,
  square: radius => `M${-radius},${-radius}H${radius}V${radius}H${-radius}Z`,
  cross: radius => `M${-radius},${-radius}L${radius},${radius}M${-radius},${radius}L${radius},${-radius}`,
  plus: radius => `M${-radius},0H${radius}M0,${-radius}V${radius}`,
  star: starPath,
};
const draw = (parent, shape, x, y, radius, attributes) =>
  svgElement("path", {d: SHAPES[shape](radius), transform: `translate(${x.toFixed(2)},${y.toFixed(2)})`, ...attributes}, parent);

// ---- the reader's choices, kept in the hash ----

const kept = new URLSearchParams(location.hash.slice(1));
const listOf = key => new Set(kept.getAll(key));
const choice = {
  objective: listOf("hide-objective"), scope: listOf("hide-scope"), open: listOf("open"),
  all: kept.get("all") === "1", paused: kept.get("paused") === "1",
  sort: kept.has("sort") ? {column: Number(kept.get("sort")), up: kept.get("up") === "1"} : null,
};
const keep = () => {
  const hash = new URLSearchParams();
  for (const name of choice.objective) hash.append("hide-objective", name);
  for (const name of choice.scope) hash.append("hide-scope", name);
  for (const name of choice.open) hash.append("open", name);
  if (choice.all) hash.set("all", "1");
  if (choice.paused) hash.set("paused", "1");
  if (choice.sort) { hash.set("sort", choice.sort.column); hash.set("up", choice.sort.up ? "1" : "0"); }
  try { history.replaceState(null, "", `#${hash}`); } catch { /* a frame without an address of its own */ }
};
const passes = (objective, scope) => !choice.objective.has(objective) && !choice.scope.has(scope);
const trialPasses = trial => trial.baseline || passes(trial.objective, trial.scope);

// ---- points ----

const colourOf = new Map(data.objectives.map(({name, colour}) => [name, colour]));
const shade = objective => colourOf.get(objective) ?? data.colours.other;
const points = [
  ...data.points.map((point, row) => ({...point, row})),
  ...data.others.map(([trial, weights, strength, first, second]) =>
    ({trial, kind: "other", weights, strength, at: [first, second], name: null, test: null, retrained: null, row: null})),
];
points.forEach((point, place) => { point.place = place; });
const trialOf = point => data.trials[point.trial];
const nameOf = point => {
  const {sweep, number} = trialOf(point);
  return point.name ?? (sweep ? `${sweep}, trial ${number}` : `trial ${number}`);
};
const shapeOf = point => ({untouched: "star", baseline: "diamond"}[point.kind] ?? "circle");
const fillOf = point => point.kind === "untouched" ? data.colours.untouched : point.kind === "baseline" ? GREY : shade(trialOf(point).objective);
const radiusOf = point => ({untouched: 9, baseline: 6.5, other: 2.6}[point.kind] ?? (point.name ? 6.5 : 5));
const untouched = points.find(point => point.kind === "untouched");
const inside = at => SIDES.every(i => data.window.low[i] <= at[i] && at[i] <= data.window.high[i]);
const nearest = at => at.map((value, i) => Math.min(Math.max(value, data.window.low[i]), data.window.high[i]));
const ordered = [...points].sort((a, b) => (a.kind === "other") - (b.kind === "other") || a.at[0] - b.at[0]);

// ---- the box beside a point ----

const box = byId("box");
let picked = null, fixed = false, active = false;

const fillBox = (title, about, lines, parameters) => {
  box.replaceChildren();
  htmlElement("b", {}, box, title);
  if (about) htmlElement("div", {}, box, about);
  const table = htmlElement("table", {}, box), head = htmlElement("tr", {}, table);
  htmlElement("th", {}, head, "");
  for (const goal of data.goals) htmlElement("th", {}, head, goal.short);
  for (const [name, values] of lines) {
    const row = htmlElement("tr", {}, table);
    htmlElement("th", {}, row, name);
    for (const value of values) htmlElement("td", {}, row, value);
  }
  const list = htmlElement("div", {class: "parameters"}, box);
  for (const [name, value] of Object.entries(parameters)) if (value !== null) htmlElement("span", {}, list, `${words(name)} ${short(value)}`);
};
const placeBox = (x, y) => {
  box.hidden = false;
  const {width, height} = box.getBoundingClientRect(), gap = 14;
  const left = x + gap + width <= innerWidth - 8 ? x + gap : x - gap - width;
  const top = y - gap - height >= 8 ? y - gap - height : y + gap;
  const wide = document.documentElement.clientWidth;
  box.style.left = `${Math.max(8, Math.min(left, wide - width - 8))}px`;
  box.style.top = `${Math.max(8, Math.min(top, innerHeight - height - 8))}px`;
};
const describe = point => {
  const trial = trialOf(point), lines = [["validation", point.at.map(three)]];
  if (point.test) lines.push(["test", SIDES.map(i => bounded(point.test.at[i], point.test.low[i], point.test.high[i]))]);
  const again = point.retrained;
  if (again) {
    const seeds = `${again.seeds} new seeds` + (again.failed ? ` (${again.failed} failed)` : "");
    if (again.validation) lines.push([`validation, ${seeds}`, again.validation.map(three)]);
    if (again.test) lines.push([`test, ${seeds}`, SIDES.map(i => bounded(again.test.at[i], again.test.low[i], again.test.high[i]))]);
  }
  let about = "the model as it was before";
  if (trial.number !== null) about = [trial.sweep, `trial ${trial.number}, ${point.weights} weights at strength ${strengthText(point)}`].filter(Boolean).join(", ");
  if (again) about += again.stays ? "; stays on the front when trained again" : "; does not stay on the front when trained again";
  fillBox(nameOf(point), about, lines, trial.parameters);
};
const spoken = point => `${nameOf(point)}, strength ${strengthText(point)}, ` +
  data.goals.map((goal, i) => `${goal.short} ${three(point.at[i])}`).join(", ");

// ---- labels ----

const overlap = (a, b) => Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) *
  Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));
const around = (x, y, radius) => ({left: x - radius, right: x + radius, top: y - radius, bottom: y + radius});

// Greedy: each label in turn takes the place near its point that costs least; labels never lie on each other.
const placeLabels = (layer, labels, marks, dots, area) => {
  const placed = [];
  for (const label of labels) {
    const text = svgElement("text", {class: `label ${label.style}`, "data-label": label.text}, layer, label.text);
    const {width, height} = text.getBBox();
    let best = null;
    for (const far of [4, 10, 20, 34, 52, 76, 104, 140, 180, 230]) {
      for (let turn = 0; turn < 16; turn++) {
        const angle = Math.PI * turn / 8, reach = label.radius + far;
        const x = label.x + reach * Math.cos(angle) + width / 2 * (Math.cos(angle) - 1);
        const y = label.y + reach * Math.sin(angle) + height / 2 * (Math.sin(angle) - 1);
        const rect = {left: x, right: x + width, top: y, bottom: y + height};
        if (rect.left < area.left + 2 || rect.right > area.right - 2 || rect.top < area.top + 1 || rect.bottom > area.bottom - 1) continue;
        const wide = {left: rect.left - 3, right: rect.right + 3, top: rect.top - 1, bottom: rect.bottom + 1};
        if (placed.some(other => overlap(wide, other) > 0)) continue;
        const cost = far * 0.6 + (far > 20 ? 8 : 0) + (angle > 0 && angle < Math.PI ? 1 : 0) +
          marks.reduce((sum, mark) => sum + overlap(rect, mark) * 0.6, 0) + dots.reduce((sum, dot) => sum + overlap(rect, dot) * 0.04, 0);
        if (best === null || cost < best.cost) best = {cost, rect, far};
      }
    }
    if (best === null) { text.remove(); continue; }
    placed.push(best.rect);
    const middle = (best.rect.top + best.rect.bottom) / 2;
    text.setAttribute("x", best.rect.left.toFixed(1));
    text.setAttribute("y", (best.rect.bottom - height * 0.22).toFixed(1));
    if (best.far > 12) {
      const end = [Math.min(Math.max(label.x, best.rect.left), best.rect.right), Math.min(Math.max(label.y, best.rect.top), best.rect.bottom)];
      if (end[1] > best.rect.top && end[1] < best.rect.bottom) end[1] = middle;
      layer.insertBefore(svgElement("line", {class: "leader", x1: label.x, y1: label.y, x2: end[0], y2: end[1]}), layer.firstChild);
    }
  }
};

// ---- the two panels of the front ----

const panels = new Map();

const drawPanel = which => {
  const figure = byId(which), plot = figure.querySelector(".plot"), width = Math.floor(plot.clientWidth);
  if (!width) return;
  const height = Math.round(Math.min(470, Math.max(300, width * 0.78)));
  const area = {left: 46, right: width - 6, top: 8, bottom: height - 40};
  const {low, high} = data.window;
  const x = value => area.left + (value - low[0]) / (high[0] - low[0]) * (area.right - area.left);
  const y = value => area.bottom - (value - low[1]) / (high[1] - low[1]) * (area.bottom - area.top);
  const focused = document.activeElement?.closest?.(`#${which} .point`)?.dataset.point;
  plot.replaceChildren();
  const svg = svgElement("svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "group",
    "aria-label": `${which}: ${data.goals[1].title} over ${data.goals[0].title}`}, plot);
  const clip = svgElement("clipPath", {id: `clip-${which}`}, svgElement("defs", {}, svg));
  svgElement("rect", {x: area.left, y: area.top, width: area.right - area.left, height: area.bottom - area.top}, clip);
  const axes = svgElement("g", {}, svg);
  for (const [value, text] of ticks(low[0], high[0], Math.max(2, Math.floor((area.right - area.left) / 62)))) {
    svgElement("line", {class: "grid", x1: x(value), x2: x(value), y1: area.top, y2: area.bottom}, axes);
    const end = x(value) > area.right - 14 ? "end" : "middle";
    svgElement("text", {class: "tick", x: end === "end" ? Math.min(x(value) + 12, width) : x(value), y: area.bottom + 15, "text-anchor": end}, axes, text);
  }
  for (const [value, text] of ticks(low[1], high[1], Math.max(2, Math.floor((area.bottom - area.top) / 46)))) {
    svgElement("line", {class: "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value)}, axes);
    svgElement("text", {class: "tick", x: area.left - 6, y: Math.max(y(value) + 4, 11), "text-anchor": "end"}, axes, text);
  }
  svgElement("path", {class: "frame", d: `M${area.left},${area.top}V${area.bottom}H${area.right}`}, axes);
  svgElement("text", {class: "title", x: (area.left + area.right) / 2, y: height - 6, "text-anchor": "middle"}, axes, axisTitle(0));

  const clipped = svgElement("g", {"clip-path": `url(#clip-${which})`}, svg), marks = svgElement("g", {}, svg);
  const below = svgElement("g", {}, clipped), joined = svgElement("g", {class: "joined"}, clipped);
  const shown = [];
  const add = (point, at, parent, attributes) => {
    const near = nearest(at), element = draw(parent, shapeOf(point), x(near[0]), y(near[1]), radiusOf(point), attributes);
    element.classList.add("point", point.kind);
    element.dataset.point = point.place;
    shown.push({point, x: x(near[0]), y: y(near[1]), element, pinned: !inside(at), at});
  };
  const visible = points.filter(point => trialPasses(trialOf(point)));
  if (which === "validation") {
    const outline = data.outline[0].map((value, i) => [value, data.outline[1][i]]);
    if (outline.length) {
      const line = outline.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("L");
      svgElement("path", {d: `M${line}V${y(data.reference[1])}H${x(data.reference[0])}Z`, fill: "#0072b2", opacity: 0.06}, below);
      svgElement("path", {id: "outline", d: `M${line}`, fill: "none", stroke: "#222", "stroke-width": 1.4}, below);
    }
    if (inside(data.reference)) draw(below, "plus", x(data.reference[0]), y(data.reference[1]), 6, {stroke: "#222", "stroke-width": 1.4});
    for (const point of visible) if (point.kind === "other" && inside(point.at)) add(point, point.at, below, {fill: fillOf(point), opacity: 0.38});
    for (const {curve} of data.baselines) {
      svgElement("path", {d: `M${curve.map(at => `${x(at[0]).toFixed(1)},${y(at[1]).toFixed(1)}`).join("L")}`, fill: "none", stroke: GREY, "stroke-dasharray": "4 3"}, below);
      for (const at of curve.slice(1)) draw(below, "diamond", x(at[0]), y(at[1]), 4.5, {fill: "#fff", stroke: GREY});
    }
  } else {
    for (const {test, ...point} of visible) if (test) bars(below, test, x, y, point.kind === "member" ? fillOf(point) : GREY, 0.7);
  }
  const front = visible.filter(point => point.kind !== "other" && (which === "validation" || point.test));
  for (const point of [...front].sort((a, b) => (b.kind === "member") - (a.kind === "member") || (a.name !== null) - (b.name !== null))) {
    add(point, which === "validation" ? point.at : point.test.at, marks, {fill: fillOf(point), stroke: point.kind === "member" ? "#222" : "#fff"});
  }
  if (which === "test") for (const point of front) {
    const again = point.retrained;
    if (!again?.test) continue;
    const [from, to] = [point.test.at, again.test.at];
    svgElement("line", {x1: x(from[0]), y1: y(from[1]), x2: x(to[0]), y2: y(to[1]), stroke: GREY, "stroke-dasharray": "1.5 3"}, below);
    bars(below, again.test, x, y, "#222", 0.4);
    if (!inside(to)) continue;
    draw(clipped, again.stays ? "square" : "cross", x(to[0]), y(to[1]), 4, {fill: "#fff", stroke: "#222", "stroke-width": again.stays ? 1.2 : 2});
  }
  const labels = shown.filter(({point}) => point.name !== null).map(entry => ({
    x: entry.x, y: entry.y, radius: radiusOf(entry.point), style: entry.point.name === "knee" ? "strong" : "",
    text: entry.pinned ? `${entry.point.name} ${arrow(entry.at)} ${entry.at.map(three).join(", ")}` : entry.point.name,
    rank: ["member", "untouched", "baseline"].indexOf(entry.point.kind),
  }));
  labels.sort((a, b) => (b.style !== "") - (a.style !== "") || a.rank - b.rank);
  if (which === "validation" && inside(data.reference)) {
    labels.push({x: x(data.reference[0]), y: y(data.reference[1]), radius: 4, style: "faint", text: "reference point"});
  }
  const dots = shown.filter(({point}) => point.kind === "other").map(entry => around(entry.x, entry.y, 3));
  for (const line of below.querySelectorAll("path:not(.point)")) {
    if (line.getAttribute("fill") !== "none") continue;
    const length = Math.min(line.getTotalLength(), 4000);
    for (let along = 0; along <= length; along += 6) {
      const spot = line.getPointAtLength(along);
      if (spot.x >= area.left && spot.x <= area.right && spot.y >= area.top && spot.y <= area.bottom) dots.push(around(spot.x, spot.y, 3));
    }
  }
  const obstacles = shown.filter(({point}) => point.kind !== "other").map(entry => around(entry.x, entry.y, radiusOf(entry.point) + 1));
  const texts = svgElement("g", {"aria-hidden": "true", "pointer-events": "none"}, svg);
  placeLabels(texts, labels, obstacles, dots, area);
  panels.set(which, {svg, x, y, area, shown, joined, visible});
  const entries = new Map(shown.map(entry => [entry.point.place, entry]));
  const walk = ordered.map(point => entries.get(point.place)).filter(Boolean);
  listen(which, svg, shown, walk);
  if (focused !== undefined) walk.find(entry => entry.element.dataset.point === focused)?.element.focus({preventScroll: true});
};
const arrow = at => {
  const across = at[0] < data.window.low[0] ? "←" : at[0] > data.window.high[0] ? "→" : "";
  return across + (at[1] < data.window.low[1] ? "↓" : at[1] > data.window.high[1] ? "↑" : "");
};
const bars = (layer, measured, x, y, stroke, opacity) => {
  const {at, low, high} = measured;
  svgElement("path", {d: `M${x(low[0])},${y(at[1])}H${x(high[0])}M${x(at[0])},${y(low[1])}V${y(high[1])}`, fill: "none", stroke, opacity}, layer);
};
const axisTitle = i => data.goals[i].title + (data.goals[i].direction === "minimize" ? " (less is better)" : "");

const listen = (which, svg, shown, walk) => {
  const at = event => {
    const frame = svg.getBoundingClientRect(), left = event.clientX - frame.left, top = event.clientY - frame.top;
    let best = null, least = NEAR_PX;
    for (const entry of shown) {
      const far = Math.hypot(entry.x - left, entry.y - top) - (entry.point.kind === "other" ? 0 : 5);
      if (far < least) { least = far; best = entry; }
    }
    return best;
  };
  svg.addEventListener("pointermove", event => {
    if (fixed || event.pointerType === "touch") return;
    const entry = at(event);
    entry ? pick(entry.point, which, entry) : drop();
  });
  svg.addEventListener("pointerleave", event => { if (!fixed && event.pointerType !== "touch") drop(); });
  svg.addEventListener("click", event => {
    const entry = at(event);
    fixed = entry !== null && !(fixed && entry.point === picked);
    entry ? pick(entry.point, which, entry) : drop();
    event.stopPropagation();
  });
  const placeOf = event => walk.findIndex(entry => entry.element === event.target);
  svg.addEventListener("focusin", event => {
    const entry = walk[placeOf(event)];
    if (!entry) return;
    entry.element.setAttribute("aria-label", spoken(entry.point));
    if (entry.element.matches(":focus-visible")) pick(entry.point, which, entry);
  });
  svg.addEventListener("focusout", () => { if (!fixed) drop(); });
  svg.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key], place = placeOf(event);
    if (step === undefined || place < 0) return;
    event.preventDefault();
    fixed = false;
    const next = walk[(place + step + walk.length) % walk.length].element;
    event.target.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.setAttribute("role", "img");
    next.focus();
  });
  if (!walk.length) return;
  walk[0].element.setAttribute("tabindex", "0");
  walk[0].element.setAttribute("role", "img");
  walk[0].element.setAttribute("aria-label", spoken(walk[0].point));
};

// Join the strengths of a point's trial in both panels, mark its row, and say what it is.
const pick = (point, which, entry) => {
  picked = point;
  for (const [name, panel] of panels) {
    panel.joined.replaceChildren();
    const of = candidate => name === "validation" ? candidate.at : candidate.test?.at;
    const same = points.filter(other => other.trial === point.trial && other.weights === "last" && of(other)).sort((a, b) => a.strength - b.strength);
    const line = point.kind !== "untouched" && untouched && of(untouched) ? [untouched, ...same] : same;
    if (line.length > 1) {
      const path = line.map(other => `${panel.x(of(other)[0]).toFixed(1)},${panel.y(of(other)[1]).toFixed(1)}`).join("L");
      svgElement("path", {d: `M${path}`, fill: "none", stroke: "#fff", "stroke-width": 5, opacity: 0.8}, panel.joined);
      svgElement("path", {d: `M${path}`, class: "strengths", fill: "none", stroke: fillOf(point), "stroke-width": 2.2}, panel.joined);
    }
    for (const other of same) draw(panel.joined, "circle", panel.x(of(other)[0]), panel.y(of(other)[1]), 4, {fill: fillOf(point), stroke: "#222"});
    if (of(point)) {
      const near = nearest(of(point));
      draw(panel.joined, "circle", panel.x(near[0]), panel.y(near[1]), 11, {fill: "none", stroke: "#222", "stroke-width": 2});
    }
  }
  for (const row of document.querySelectorAll("#points tr[data-row]")) row.classList.toggle("picked", row.dataset.row === String(point.row));
  describe(point);
  const frame = panels.get(which).svg.getBoundingClientRect();
  placeBox(frame.left + entry.x, frame.top + entry.y);
};
const drop = () => {
  if (picked === null && box.hidden) return;
  picked = null;
  fixed = false;
  for (const panel of panels.values()) panel.joined.replaceChildren();
  for (const row of document.querySelectorAll("tr.picked")) row.classList.remove("picked");
  box.hidden = true;
};
document.addEventListener("keydown", event => { if (event.key === "Escape") drop(); });
document.addEventListener("click", drop);
addEventListener("scroll", () => { if (!box.hidden) drop(); }, {passive: true});

// ---- around the panels ----

const sayOutside = () => {
  const hidden = points.filter(point => point.kind === "other" && trialPasses(trialOf(point)) && !inside(point.at)).length;
  byId("outside").textContent = hidden ? `Outside the picture: ${hidden} point${hidden === 1 ? "" : "s"}.` : "";
};
const drawLegend = () => {
  const list = byId("legend");
  list.replaceChildren();
  const entry = (text, paint) => {
    const item = htmlElement("li", {}, list), svg = svgElement("svg", {width: 26, height: 18, "aria-hidden": "true"}, item);
    paint(svg);
    htmlElement("span", {}, item, text);
  };
  for (const {name, colour} of data.objectives) if (!choice.objective.has(name)) entry(words(name), svg => draw(svg, "circle", 13, 9, 5, {fill: colour, stroke: "#222"}));
  if (data.others.length) entry("not on the front", svg => draw(svg, "circle", 13, 9, 2.6, {fill: data.colours.other, opacity: 0.5}));
  if (untouched) entry("untouched model", svg => draw(svg, "star", 13, 9, 8, {fill: data.colours.untouched}));
  for (const {title} of data.baselines) entry(`${title} by strength`, svg => {
    svgElement("line", {x1: 0, x2: 26, y1: 9, y2: 9, stroke: GREY, "stroke-dasharray": "4 3"}, svg);
    draw(svg, "diamond", 13, 9, 6, {fill: GREY, stroke: "#fff"});
  });
  if (data.points.some(point => point.retrained?.test)) {
    entry("mean over new seeds", svg => draw(svg, "square", 13, 9, 4, {fill: "#fff", stroke: "#222"}));
    entry("the same, does not stay", svg => draw(svg, "cross", 13, 9, 4, {stroke: "#222", "stroke-width": 2}));
  }
};
const drawFilters = () => {
  for (const [key, title, values] of [["objective", "objective", data.objectives], ["scope", "scope", data.scopes]]) {
    if (values.length < 2) continue;
    const group = htmlElement("fieldset", {}, byId("filters"));
    htmlElement("legend", {}, group, title);
    for (const {name, colour} of values) {
      const label = htmlElement("label", {}, group);
      const tick = htmlElement("input", {type: "checkbox", name: `${key}:${name}`}, label);
      tick.checked = !choice[key].has(name);
      if (colour) htmlElement("span", {class: "dot", style: `background:${colour}`}, label);
      htmlElement("span", {}, label, words(name));
      tick.addEventListener("change", () => {
        tick.checked ? choice[key].delete(name) : choice[key].add(name);
        keep();
        drop();
        drawAll();
      });
    }
  }
};

// ---- the table ----

const measured = data.points.some(point => point.test);
const goalColumns = SIDES.flatMap(i => [{title: `validation ${data.goals[i].short}`, value: point => point.at[i], show: three}]);
const testColumns = SIDES.map(i => ({title: `test ${data.goals[i].short}`, value: point => point.test?.at[i] ?? null, show: three}));
const EIGHT = [
  {title: "point", text: true, value: point => {
    const {sweep, number} = trialOf(point);
    return number === null || point.name === null ? nameOf(point) : [point.name, sweep, `trial ${number}`].filter(Boolean).join(", ");
  }},
  {title: "objective", text: true, value: point => trialOf(point).objective, show: words},
  {title: "scope", text: true, value: point => trialOf(point).scope, show: words},
  {title: "strength", value: point => trialOf(point).number === null ? null : point.strength, show: (_, point) => strengthText(point)},
  ...goalColumns, ...testColumns,
];
const ALL = [EIGHT[0], ...data.table.more.map((column, i) => ({
  title: column.title, text: column.text, value: point => data.table.cells[point.row]?.[i] ?? null,
  show: value => typeof value === "boolean" ? (value ? "yes" : "no") : typeof value === "string" ? value : typeof value === "number" && /^(validation|test|confirmed)/.test(column.title) && !Number.isInteger(value) ? three(value) : short(value),
}))];
const drawTable = () => {
  const columns = choice.all ? ALL : EIGHT, table = byId("points");
  table.replaceChildren();
  const head = htmlElement("tr", {}, htmlElement("thead", {}, table)), body = htmlElement("tbody", {}, table);
  columns.forEach((column, i) => {
    const cell = htmlElement("th", {scope: "col", class: column.text ? "text" : "number"}, head);
    const up = choice.sort?.column === i ? choice.sort.up : null;
    if (up !== null) cell.setAttribute("aria-sort", up ? "ascending" : "descending");
    const button = htmlElement("button", {type: "button", title: "sort"}, cell, column.title + (up === null ? "" : up ? " ▲" : " ▼"));
    button.addEventListener("click", () => {
      choice.sort = {column: i, up: up === null ? Boolean(column.text) : !up};
      keep();
      drawTable();
      byId("points").querySelectorAll("th button")[i].focus();
    });
  });
  const rows = points.filter(point => point.row !== null && point.row < data.table.cells.length && trialPasses(trialOf(point)));
  const by = choice.sort && columns[choice.sort.column];
  if (by) rows.sort((a, b) => {
    const [first, second] = [by.value(a), by.value(b)];
    if (first === null || second === null) return (first === null) - (second === null);
    const order = typeof first === "number" && typeof second === "number" ? first - second : String(first).localeCompare(String(second), "en", {numeric: true});
    return choice.sort.up ? order : -order;
  });
  for (const point of rows) {
    const row = htmlElement("tr", {class: point.kind, "data-row": point.row}, body);
    columns.forEach((column, i) => {
      const value = column.value(point), cell = htmlElement("td", {class: column.text ? "text" : "number"}, row);
      const text = value === null ? "" : column.show ? column.show(value, point) : value;
      if (i > 0) { cell.textContent = text; return; }
      const button = htmlElement("button", {type: "button", title: "show it in the picture"}, cell, text);
      button.addEventListener("click", event => {
        event.stopPropagation();
        const entry = panels.get("validation")?.shown.find(candidate => candidate.point === point);
        if (!entry) return;
        byId("validation").scrollIntoView({block: "nearest"});
        requestAnimationFrame(() => requestAnimationFrame(() => { fixed = true; pick(point, "validation", entry); }));
      });
    });
  }
};

// ---- panels of the search ----

const trialAbout = ([number, objective, scope, stopped, goals, values]) => () => {
  const parameters = Object.fromEntries(search.parameters.map(({name}, i) => [name, values[i]]));
  fillBox(`trial ${number}`, stopped ? "stopped early; its goals then" : "complete; last weights, strength 1", [["validation", goals.map(three)]], parameters);
};
const searched = () => search.trials.filter(([, objective, scope]) => passes(objective, scope));

// Values far outside the others (three times the distance of the quartiles) do not stretch an axis.
const fence = values => {
  const sorted = [...values].sort((a, b) => a - b), at = share => sorted[Math.round((sorted.length - 1) * share)];
  const reach = 3 * (at(0.75) - at(0.25)) || 0.01;
  const kept = sorted.filter(value => value >= at(0.25) - reach && value <= at(0.75) + reach);
  const margin = Math.max(0.004, 0.06 * (kept.at(-1) - kept[0]));
  return [kept[0] - margin, kept.at(-1) + margin];
};
const hover = (svg, entries, near, show) => {
  const at = event => {
    const frame = svg.getBoundingClientRect();
    return near(event.clientX - frame.left, event.clientY - frame.top);
  };
  const point = event => {
    const entry = at(event);
    show(entry);
    if (entry) { entry.about(); placeBox(event.clientX, event.clientY); } else { box.hidden = true; }
  };
  svg.addEventListener("pointermove", event => { if (event.pointerType !== "touch") point(event); });
  svg.addEventListener("click", event => { event.stopPropagation(); point(event); });
  svg.addEventListener("pointerleave", () => { show(null); box.hidden = true; });
};
const nearestOf = entries => (left, top) => {
  let best = null, least = 16;
  for (const entry of entries) {
    const far = Math.hypot(entry.x - left, entry.y - top);
    if (far < least) { least = far; best = entry; }
  }
  return best;
};

const axisOf = (parameter, trials, i, from, to) => {
  if (parameter.choices) {
    const step = (to - from) / parameter.choices.length;
    const position = value => from + (parameter.choices.indexOf(String(value)) + 0.5) * step;
    return {position, ticks: parameter.choices.map(value => [position(value), words(value)]), step};
  }
  const values = trials.map(trial => trial[5][i]).filter(value => typeof value === "number");
  let low = Math.min(...values), high = Math.max(...values);
  if (!values.length) [low, high] = [0.1, 1];
  if (low === high) [low, high] = parameter.log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  const scale = parameter.log ? Math.log10 : value => value, [a, b] = [scale(low), scale(high)];
  const position = value => typeof value === "number" ? from + (scale(value) - a) / (b - a) * (to - from) : null;
  const marks = parameter.log ? logTicks(low, high) : ticks(low, high, 3);
  return {position, ticks: marks.map(([value, text]) => [position(value), text]), step: null};
};

const drawSlices = body => {
  const trials = searched();
  data.goals.forEach((goal, side) => {
    htmlElement("h3", {}, body, axisTitle(side));
    const tiles = htmlElement("div", {class: "tiles"}, body);
    if (!trials.length) { htmlElement("p", {}, tiles, "No ended trial to show."); return; }
    const [low, high] = fence(trials.map(trial => trial[4][side]));
    search.parameters.forEach((parameter, i) => {
      const width = Math.floor(Math.min(tiles.clientWidth, tileWidth(tiles))), height = 150;
      const area = {left: 40, right: width - 12, top: 6, bottom: height - 38};
      const svg = svgElement("svg", {width, height, role: "img", "aria-label": `${goal.title} over ${words(parameter.name)}`}, tiles);
      const y = value => area.bottom - (value - low) / (high - low) * (area.bottom - area.top);
      for (const [value, text] of ticks(low, high, 4)) {
        svgElement("line", {class: "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value)}, svg);
        svgElement("text", {class: "tick", x: area.left - 5, y: y(value) + 4, "text-anchor": "end"}, svg, text);
      }
      const axis = axisOf(parameter, trials, i, area.left + 8, area.right - 8);
      tickTexts(svg, axis, area, width);
      svgElement("path", {class: "frame", d: `M${area.left},${area.top}V${area.bottom}H${area.right}`}, svg);
      svgElement("text", {class: "title", x: (area.left + area.right) / 2, y: height - 6, "text-anchor": "middle"}, svg, words(parameter.name) + (parameter.log ? " (log)" : ""));
      const entries = [];
      trials.forEach((trial, order) => {
        const left = trial[5][i] === null ? null : axis.position(trial[5][i]);
        if (left === null) return;
        const spread = axis.step ? ((order * 7) % 11 / 10 - 0.5) * Math.min(axis.step * 0.5, 24) : 0, value = trial[4][side];
        const beyond = value < low || value > high, top = Math.min(Math.max(y(value), area.top), area.bottom), colour = shade(trial[1]);
        draw(svg, beyond ? "diamond" : "circle", left + spread, top, 3.2, trial[3] ? {fill: "#fff", stroke: colour} : {fill: colour, opacity: 0.75});
        entries.push({x: left + spread, y: top, about: trialAbout(trial)});
      });
      const ring = draw(svg, "circle", -20, -20, 6, {fill: "none", stroke: "#222", "stroke-width": 1.5});
      hover(svg, entries, nearestOf(entries), entry => ring.setAttribute("transform", entry ? `translate(${entry.x},${entry.y})` : "translate(-20,-20)"));
    });
  });
  htmlElement("p", {class: "hint"}, body, "Reported goals of ended trials on validation: last weights, strength 1. Hollow: stopped early. Diamonds at an edge lie beyond it. A trial stands only in the pictures of parameters that it has.");
};
const tileWidth = tiles => parseFloat(getComputedStyle(tiles).gridTemplateColumns);
const tickTexts = (svg, axis, area, width) => {
  let end = -Infinity;
  for (const [left, text] of axis.ticks) {
    const label = svgElement("text", {class: "tick", y: area.bottom + 14, "text-anchor": "middle"}, svg, text);
    if (axis.step) while (label.getComputedTextLength() > axis.step - 4 && label.textContent.length > 2) label.textContent = `${label.textContent.replace("…", "").slice(0, -1)}…`;
    const half = label.getComputedTextLength() / 2, centre = Math.min(Math.max(left, half + 1), width - half - 1);
    if (centre - half < end + 4) { label.remove(); continue; }
    end = centre + half;
    label.setAttribute("x", centre);
    svgElement("line", {stroke: "#888", x1: left, x2: left, y1: area.bottom, y2: area.bottom + 3}, svg);
    if (label.textContent !== text) svgElement("title", {}, label, text);
  }
};

const drawHypervolume = body => {
  const course = search.hypervolumes, width = Math.floor(body.clientWidth), height = 220;
  if (!course.length) { htmlElement("p", {}, body, "No trial has ended yet."); return; }
  const area = {left: 52, right: width - 12, top: 8, bottom: height - 40}, last = Math.max(search.planned, course.length);
  const top = Math.max(...course.map(([, value]) => value)) * 1.06 || 1;
  const x = count => area.left + count / last * (area.right - area.left), y = value => area.bottom - value / top * (area.bottom - area.top);
  const svg = svgElement("svg", {width, height, role: "img", "aria-label": `hypervolume: ${course.at(-1)[1].toFixed(4)} after ${course.length} trials`}, body);
  for (const [value, text] of ticks(0, top, 4)) {
    svgElement("line", {class: "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value)}, svg);
    svgElement("text", {class: "tick", x: area.left - 6, y: y(value) + 4, "text-anchor": "end"}, svg, text);
  }
  for (const [value] of ticks(0, last, Math.floor(width / 80))) if (Number.isInteger(value)) svgElement("text", {class: "tick", x: x(value), y: area.bottom + 15, "text-anchor": "middle"}, svg, String(value));
  svgElement("path", {class: "frame", d: `M${area.left},${area.top}V${area.bottom}H${area.right}`}, svg);
  svgElement("text", {class: "title", x: (area.left + area.right) / 2, y: height - 6, "text-anchor": "middle"}, svg, "trials ended, in the order in which they began");
  svgElement("path", {d: `M${x(0)},${y(0)}` + course.map(([count, value]) => `H${x(count).toFixed(1)}V${y(value).toFixed(1)}`).join(""), fill: "none", stroke: "#0072b2", "stroke-width": 2}, svg);
  htmlElement("p", {class: "hint"}, body, `Of the front by the search alone on validation: ${course.at(-1)[1].toFixed(4)} after ${course.length} trials. A second look, where the spec has one, chooses the front on more images.`);
};

const drawImportance = body => {
  if (search.no_importance) { htmlElement("p", {}, body, search.no_importance); return; }
  const columns = htmlElement("div", {class: "columns"}, body);
  for (const {goal, shares} of search.importance) {
    const side = htmlElement("div", {}, columns);
    htmlElement("h3", {}, side, goal);
    const bars = htmlElement("div", {class: "bars"}, side);
    for (const [name, share] of shares) {
      htmlElement("span", {}, bars, words(name));
      htmlElement("span", {class: "bar", style: `width:${(100 * share).toFixed(1)}%`}, bars);
      htmlElement("span", {class: "value"}, bars, share.toFixed(3));
    }
  }
  htmlElement("p", {class: "hint"}, body, "How much of the differences in rank between complete trials a parameter explains by itself; the rest is chance and parameters together. A parameter that only some trials have is judged among these, each of its branches by itself, and counts by their part of all. All trials count, whatever the filters are.");
};

const drawParallel = body => {
  const trials = searched().filter(trial => !trial[3]);
  if (!trials.length) { htmlElement("p", {}, body, "No complete trial to show."); return; }
  const names = [...search.parameters.map(({name}) => words(name)), ...data.goals.map(goal => goal.short)];
  const scroll = htmlElement("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": "parallel coordinates"}, body);
  const width = Math.max(Math.floor(body.clientWidth), names.length * 84), height = 320, area = {top: 40, bottom: height - 44};
  const none = height - 14;
  const svg = svgElement("svg", {width, height, role: "img", style: "max-width:none", "aria-label": "each complete trial as a line over its parameters and goals"}, scroll);
  const place = i => 46 + i * (width - 92) / (names.length - 1);
  const axes = search.parameters.map((parameter, i) => axisOf(parameter, trials, i, area.bottom, area.top));
  data.goals.forEach((goal, side) => {
    const [low, high] = fence(trials.map(trial => trial[4][side]));
    const position = value => area.bottom - (Math.min(Math.max(value, low), high) - low) / (high - low) * (area.bottom - area.top);
    axes.push({position, ticks: ticks(low, high, 3).map(([value, text]) => [position(value), text]), step: null});
  });
  const lines = svgElement("g", {}, svg), entries = [];
  for (const trial of trials) {
    const values = [...trial[5], ...trial[4]];
    const tops = axes.map((axis, i) => values[i] === null ? none : axis.position(values[i]) ?? none);
    const path = svgElement("path", {d: `M${tops.map((top, i) => `${place(i).toFixed(1)},${top.toFixed(1)}`).join("L")}`, fill: "none", stroke: shade(trial[1]), opacity: 0.45, "stroke-width": 1.2}, lines);
    entries.push({tops, path, about: trialAbout(trial)});
  }
  axes.forEach((axis, i) => {
    svgElement("line", {stroke: "#666", x1: place(i), x2: place(i), y1: area.top, y2: area.bottom}, svg);
    const title = svgElement("text", {class: "tick strong", "text-anchor": "middle"}, svg);
    const parts = names[i].split(" "), halves = names[i].length > 12 && parts.length > 1 ? [parts.slice(0, Math.ceil(parts.length / 2)).join(" "), parts.slice(Math.ceil(parts.length / 2)).join(" ")] : [names[i]];
    halves.forEach((half, line) => svgElement("tspan", {x: place(i), y: 26 - 13 * (halves.length - 1 - line)}, title, half));
    for (const [top, text] of axis.ticks) {
      svgElement("line", {stroke: "#666", x1: place(i) - 3, x2: place(i), y1: top, y2: top}, svg);
      const label = svgElement("text", {class: "tick label", x: place(i) - 5, y: top + 4, "text-anchor": "end"}, svg, text);
      const room = (i === 0 ? 40 : (width - 92) / (names.length - 1) - 8);
      while (label.getComputedTextLength() > room && label.textContent.length > 2) label.textContent = `${label.textContent.replace("…", "").slice(0, -1)}…`;
      if (label.textContent !== text) svgElement("title", {}, label, text);
    }
  });
  svgElement("text", {class: "tick", x: 4, y: none + 4}, svg, "none");
  const near = (left, top) => {
    const gap = (width - 92) / (names.length - 1), i = Math.min(Math.max(Math.floor((left - 46) / gap), 0), names.length - 2);
    const share = Math.min(Math.max((left - place(i)) / gap, 0), 1);
    let best = null, least = 12;
    for (const entry of entries) {
      const far = Math.abs(entry.tops[i] + share * (entry.tops[i + 1] - entry.tops[i]) - top);
      if (far < least) { least = far; best = entry; }
    }
    return best;
  };
  hover(svg, entries, near, entry => {
    for (const {path} of entries) { path.setAttribute("stroke-width", 1.2); path.setAttribute("opacity", entry ? 0.15 : 0.45); }
    if (entry) { entry.path.setAttribute("stroke-width", 3); entry.path.setAttribute("opacity", 1); lines.append(entry.path); }
  });
  htmlElement("p", {class: "hint"}, body, "Complete trials, coloured by objective. A line goes to the bottom where its trial does not have the parameter.");
};

const drawRunning = body => {
  if (!search.now.length) { htmlElement("p", {}, body, "No trial runs at this moment."); return; }
  const table = htmlElement("table", {}, htmlElement("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": "running trials"}, body));
  const head = htmlElement("tr", {}, htmlElement("thead", {}, table)), rows = htmlElement("tbody", {}, table);
  const titles = ["trial", "objective", "scope", "done", ...data.goals.map(goal => goal.short)];
  titles.forEach((title, i) => htmlElement("th", {scope: "col", class: i < 3 ? "text" : "number"}, head, title));
  for (const trial of search.now.filter(({objective, scope}) => passes(objective, scope))) {
    const row = htmlElement("tr", {}, rows);
    const cells = [trial.number, words(trial.objective ?? ""), words(trial.scope ?? ""), `${Math.round(100 * trial.progress)} %`, ...(trial.goals ? trial.goals.map(three) : ["", ""])];
    cells.forEach((cell, i) => htmlElement("td", {class: i < 3 ? "text" : "number"}, row, cell));
  }
};

const SECTIONS = {running: drawRunning, hypervolume: drawHypervolume, slices: drawSlices, importance: drawImportance, parallel: drawParallel};
const drawSection = id => {
  const section = byId(id), body = section.querySelector(".body");
  if (!section.open) return;
  body.replaceChildren();
  SECTIONS[id](body);
};

// ---- state of the sweep ----

const showState = () => {
  const when = new Date(data.as_of), clock = when.toLocaleTimeString("en-GB", {hour: "2-digit", minute: "2-digit"});
  const day = when.toDateString() === new Date().toDateString() ? "" : `${when.toLocaleDateString("en-CA")} `;
  const count = search ? `${search.ended} of ${search.planned} trials, ` : "";
  byId("state").querySelector("span").textContent = `${search?.running ? "running: " : ""}${count}as of ${day}${clock}`;
  if (!search?.running || window.self !== window.top) return;
  const button = byId("pause");
  const show = () => {
    button.textContent = choice.paused ? "reload again every 15 s" : "pause reloading";
    button.setAttribute("aria-pressed", String(choice.paused));
  };
  button.hidden = false;
  show();
  button.addEventListener("click", () => { choice.paused = !choice.paused; keep(); show(); });
  setInterval(() => {
    if (choice.paused || document.hidden || !box.hidden) return; // somebody reads
    try { sessionStorage.setItem("sweeper-scroll", String(scrollY)); } catch { /* not allowed here */ }
    location.reload();
  }, RELOAD_MS);
};

const drawAll = () => {
  for (const which of ["validation", "test"]) if (!byId(which).hidden) drawPanel(which);
  sayOutside();
  drawLegend();
  drawTable();
  if (search) Object.keys(SECTIONS).forEach(drawSection);
};

for (const button of document.querySelectorAll(".picture button")) button.addEventListener("click", () => {
  const whole = button.closest(".picture").classList.toggle("whole");
  button.setAttribute("aria-pressed", String(whole));
});
byId("test").hidden = !measured;
byId("front").classList.toggle("both", measured);
for (const axis of document.querySelectorAll("#front .axis")) axis.textContent = `↑ ${axisTitle(1)}`;
byId("more").textContent = data.table.left_out ? `${data.table.left_out} more in front.csv.` : "";
for (const note of data.notes) htmlElement("p", {class: "hint"}, byId("notes"), note);
const allColumns = byId("columns");
allColumns.setAttribute("aria-pressed", String(choice.all));
allColumns.addEventListener("click", () => {
  choice.all = !choice.all;
  choice.sort = null;
  allColumns.setAttribute("aria-pressed", String(choice.all));
  keep();
  drawTable();
});
if (search) {
  for (const id of Object.keys(SECTIONS)) {
    const section = byId(id);
    section.hidden = id === "running" && !search.running;
    section.open = choice.open.has(id);
    section.addEventListener("toggle", () => {
      section.open ? choice.open.add(id) : choice.open.delete(id);
      keep();
      drawSection(id);
    });
  }
}
drawFilters();
drawAll();
showState();
let drawnAt = document.documentElement.clientWidth;
addEventListener("resize", () => {
  if (document.documentElement.clientWidth === drawnAt) return;
  drawnAt = document.documentElement.clientWidth;
  drop();
  drawAll();
});
try {
  const scroll = sessionStorage.getItem("sweeper-scroll");
  if (scroll !== null) scrollTo(0, Number(scroll));
  sessionStorage.removeItem("sweeper-scroll");
} catch { /* not allowed here */ }
})();
