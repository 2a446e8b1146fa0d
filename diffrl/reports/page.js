"use strict";
// Text goes in as text: nothing here makes HTML of a string.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 58, right: 12, top: 10, bottom: 44 };

function element(name, attributes, parent, text) {
  const made = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

const inWords = (number) => Number(number.toPrecision(5)).toLocaleString("en", { maximumSignificantDigits: 5 });
const known = (number) => number !== null;

// ------------------------------------------------------------ tables
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (!body) continue;
  const asWritten = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.ariaSort || "none"];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next !== "none") head.setAttribute("aria-sort", next);
      body.append(...(next === "none" ? asWritten : sorted(asWritten, column, next === "ascending" ? 1 : -1)));
    });
  });
}

// Numbers where the column has any, words where not; what has no number stays below, whichever way is up.
function sorted(rows, column, direction) {
  const cell = (row) => row.cells[column];
  const numbers = rows.some((row) => cell(row).dataset.value !== undefined);
  const missing = (row) => (numbers ? cell(row).dataset.value === undefined : !cell(row).textContent);
  return [...rows].sort((a, b) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    if (numbers) return direction * (cell(a).dataset.value - cell(b).dataset.value);
    return direction * cell(a).textContent.localeCompare(cell(b).textContent, "en", { numeric: true });
  });
}

// ------------------------------------------------------------ curves
for (const figure of document.querySelectorAll("figure.chart")) {
  const chart = JSON.parse(figure.dataset.chart);
  const hidden = new Set();
  const legend = element("div", { class: "legend" }, figure);
  const svg = element("svg:svg", { role: "img", tabindex: 0, "aria-label": `${chart.y} over ${chart.x}` }, figure);
  const tip = element("div", { class: "tip", role: "status", hidden: "" }, figure);
  let points = []; // what can be pointed at, where it stands
  let marker, current;

  chart.curves.forEach((curve) => {
    const button = element("button", { type: "button", "aria-pressed": true }, legend);
    element("i", {}, button).style.background = curve.colour;
    button.append(curve.name);
    button.addEventListener("click", () => {
      if (!hidden.delete(curve)) hidden.add(curve);
      button.setAttribute("aria-pressed", !hidden.has(curve));
      draw();
    });
  });

  function draw() {
    const width = Math.max(figure.clientWidth, 240);
    const height = Math.round(Math.min(420, Math.max(260, width * 0.45)));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    tip.hidden = true;
    current = undefined;
    const shown = chart.curves.filter((curve) => !hidden.has(curve));
    const xs = chart.curves.flatMap((curve) => curve.x);
    const ys = shown.flatMap((curve) => [curve.mean, curve.low, curve.high, ...curve.runs.map((run) => run.values)].flat());
    const x = axis(xs, MARGIN.left, width - MARGIN.right, chart.logarithmic);
    const y = axis([...ys.filter(known), ...(chart.level ? [chart.level.value] : [])], height - MARGIN.bottom, MARGIN.top, false);
    axes(x, y, width, height);
    points = shown.flatMap((curve) => drawCurve(curve, x, y));
    marker = element("svg:circle", { class: "marker", r: 5, visibility: "hidden" }, svg);
  }

  function axes(x, y, width, height) {
    for (const value of y.ticks) {
      element("svg:line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y.at(value), y2: y.at(value) }, svg);
      element("svg:text", { x: MARGIN.left - 6, y: y.at(value) + 4, "text-anchor": "end" }, svg, inWords(value));
    }
    for (const value of x.ticks) {
      element("svg:text", { x: x.at(value), y: height - MARGIN.bottom + 18, "text-anchor": "middle" }, svg, inWords(value));
    }
    const middle = (MARGIN.left + width - MARGIN.right) / 2;
    element("svg:text", { x: middle, y: height - 6, "text-anchor": "middle" }, svg, fitting(chart.x, width / 7));
    const up = `translate(13 ${(height - MARGIN.bottom) / 2}) rotate(-90)`;
    element("svg:text", { transform: up, "text-anchor": "middle" }, svg, fitting(chart.y, height / 8));
    if (chart.level) {
      const at = y.at(chart.level.value);
      element("svg:line", { class: "level", x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }, svg);
      element("svg:text", { x: width - MARGIN.right, y: at - 5, "text-anchor": "end" }, svg, chart.level.name);
    }
  }

  // Draws a curve; returns its points and those of its runs.
  function drawCurve(curve, x, y) {
    const place = (values) => values.map((value, i) => (known(value) ? { i, x: x.at(curve.x[i]), y: y.at(value) } : null));
    const stroke = { stroke: curve.colour, fill: "none" };
    const low = place(curve.low).filter(known);
    const high = place(curve.high).filter(known);
    if (low.length > 1 && curve.kind !== "dots") {
      const edge = [...corners(high, curve.kind), ...corners(low, curve.kind).reverse()];
      element("svg:path", { d: `${path(edge)}Z`, fill: curve.colour, "fill-opacity": 0.18 }, svg);
    }
    const found = [];
    for (const run of curve.runs) {
      const places = place(run.values).filter(known);
      if (chart.run_lines) element("svg:path", { d: path(places), ...stroke, "stroke-opacity": 0.35 }, svg);
      if (!chart.run_lines || places.length < 5) dots(places, curve.colour, 2, 0.45);
      found.push(...places.map((at) => ({ ...at, curve, run })));
    }
    const means = place(curve.mean).filter(known);
    if (curve.kind !== "dots") element("svg:path", { d: path(corners(means, curve.kind)), ...stroke, "stroke-width": 2.5 }, svg);
    if (curve.kind !== "step" && means.length < 15) dots(means, curve.colour, 4, 1);
    return [...means.map((at) => ({ ...at, curve })), ...found];
  }

  function dots(places, fill, r, opacity) {
    for (const at of places) element("svg:circle", { cx: at.x, cy: at.y, r, fill, "fill-opacity": opacity }, svg);
  }

  function tell(point) {
    current = point;
    const { curve, i, run } = point;
    tip.replaceChildren();
    element("b", {}, tip, curve.name).style.color = curve.colour;
    const mean = known(curve.mean[i]) ? inWords(curve.mean[i]) : "none, a run diverged";
    const lines = [`${chart.x}: ${inWords(curve.x[i])}`, `${curve.runs.length ? "mean" : chart.y}: ${mean}`];
    if (known(curve.low[i])) lines.push(`95 % interval: ${inWords(curve.low[i])} … ${inWords(curve.high[i])}`);
    if (run) lines.push(`${run.name}: ${inWords(run.values[i])}`);
    lines.forEach((line) => element("div", {}, tip, line));
    for (const [key, value] of Object.entries({ cx: point.x, cy: point.y, stroke: curve.colour, visibility: "visible" })) {
      marker.setAttribute(key, value);
    }
    tip.hidden = false;
    const left = point.x + 12 + tip.offsetWidth > figure.clientWidth ? point.x - 12 - tip.offsetWidth : point.x + 12;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${svg.getBoundingClientRect().top - figure.getBoundingClientRect().top + Math.max(0, point.y - 20)}px`;
  }

  function hide() {
    tip.hidden = true;
    marker.setAttribute("visibility", "hidden");
  }

  function pointed(event) {
    const box = svg.getBoundingClientRect();
    // A mean is easier to hit than one of many runs.
    const distance = (at) => Math.hypot(at.x - (event.clientX - box.left), at.y - (event.clientY - box.top)) + (at.run ? 4 : 0);
    const nearest = points.reduce((best, at) => (best && distance(best) <= distance(at) ? best : at), undefined);
    if (nearest) tell(nearest);
  }
  svg.addEventListener("pointermove", pointed);
  svg.addEventListener("pointerdown", pointed);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    const means = points.filter((at) => !at.run);
    if (!step || !means.length) return;
    event.preventDefault();
    if (!current) return tell(means[0]);
    const shown = [...new Set(means.map((at) => at.curve))];
    const curve = shown[(shown.indexOf(current.curve) + step[1] + shown.length) % shown.length];
    const along = means.filter((at) => at.curve === curve);
    const index = along.findIndex((at) => at.i >= current.i);
    tell(along[Math.min(Math.max((index < 0 ? along.length - 1 : index) + step[0], 0), along.length - 1)]);
  });

  new ResizeObserver(draw).observe(figure);
}

const path = (places) => places.map((at, i) => `${i ? "L" : "M"}${at.x.toFixed(1)} ${at.y.toFixed(1)}`).join("");

// What a line passes through: a step lasts until the next x.
function corners(places, kind) {
  if (kind !== "step") return places;
  return places.flatMap((at, i) => (i ? [{ x: at.x, y: places[i - 1].y }, at] : [at]));
}

const fitting = (text, letters) => (text.length > letters ? `${text.slice(0, Math.max(1, Math.floor(letters) - 1))}…` : text);

// From values to pixels between `from` and `to`, with round numbers on the way.
function axis(values, from, to, logarithmic) {
  const scale = logarithmic ? Math.log : (value) => value;
  const back = logarithmic ? Math.exp : (value) => value;
  let low = Math.min(...values.map(scale));
  let high = Math.max(...values.map(scale));
  if (!values.length) [low, high] = [0, 1];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const room = 0.04 * (high - low);
  [low, high] = [low - room, high + room];
  const at = (value) => from + ((scale(value) - low) / (high - low)) * (to - from);
  const most = Math.max(2, Math.abs(to - from) / (from < to ? 80 : 45));
  return { at, ticks: logarithmic ? powers(back(low), back(high), most) : round(low, high, most) };
}

function round(low, high, most) {
  const raw = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= raw);
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high; n += 1) ticks.push(Number((n * step).toPrecision(12)));
  return ticks;
}

function powers(low, high, most) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const factors = last - first > most / 2 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let exponent = first; exponent <= last; exponent += Math.ceil((last - first) / most)) {
    ticks.push(...factors.map((factor) => Number(`${factor}e${exponent}`)));
  }
  return ticks.filter((value) => value >= low && value <= high);
}
