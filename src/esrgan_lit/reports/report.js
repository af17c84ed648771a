// What the report of runs shows; page.html of the package has the helpers and `data`.
"use strict";
const COLOURS = ["#1769aa", "#d9541e", "#2a9d4a", "#b83280", "#7a5cc4", "#8c6d1f", "#13a3a3", "#888888"];
// Charts of one run: title, names, logarithmic. What is named nowhere gets a chart of its own.
const CHARTS = [
  ["Pixel loss (raw)", ["train/pixel"], true],
  ["Perceptual loss (raw)", ["train/perceptual"], true],
  ["Adversarial loss of G (raw)", ["train/adversarial"], false],
  ["Loss of D", ["train/discriminator"], false],
  ["Accuracy of D", ["train/real_accuracy", "train/fake_accuracy"], false],
  ["Logits of D", ["train/real_logit", "train/fake_logit", "train/logit_gap"], false],
  ["Gradient norms", ["train/gradient_norm", "train/discriminator_gradient_norm"], true],
  ["Color shift (levels of 255)", ["train/color_shift", "train/colour_shift"], false],
  ["Skipped steps", ["train/skipped_steps"], false],
  ["Learning rates", ["learning_rate", "discriminator_learning_rate"], true],
  ["Iterations a second", ["speed/iterations_per_second"], false],
  ["Images a second", ["speed/images_per_second"], false],
  ["GPU memory (GiB, most so far)", ["speed/gpu_memory_gib"], false],
];

function short(value) {
  const size = Math.abs(value);
  return value === 0 ? "0" : size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(4));
}
// Marks of an axis, with as many digits as tell them apart.
function labels(marks) {
  const step = Math.abs(marks[1] - marks[0]) || 1;
  const plain = step >= 1e-4 && marks.every(mark => Math.abs(mark) < 1e5);
  return marks.map(mark => plain ? mark.toFixed(Math.max(0, Math.ceil(-Math.log10(step) - 1e-9))) : short(mark));
}
function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.append(...children);
  return element;
}
function steps(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(size => size >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({length: Math.floor(high / step + 1e-9) - first + 1}, (_, at) => (first + at) * step);
}
function smooth(points) {
  const reach = Math.floor(points.length / 40);
  return points.map(([x], at) => {
    const near = points.slice(Math.max(0, at - reach), at + reach + 1);
    return [x, near.reduce((sum, [, y]) => sum + y, 0) / near.length];
  });
}

// lines: [{label, points: [[iteration, value]], colour}]
function chart(title, lines, logarithmic) {
  lines = lines.filter(line => line.points && line.points.length);
  const values = lines.flatMap(line => line.points.map(([, y]) => y)), ends = lines.flatMap(
    line => [line.points[0][0], line.points[line.points.length - 1][0]]);
  if (!values.length) return null;
  logarithmic = logarithmic && Math.min(...values) > 0;
  const scale = logarithmic ? Math.log10 : value => value;
  const [width, height, left, right, top, bottom] = [400, 220, 50, 18, 8, 24];
  let [low, high] = [scale(Math.min(...values)), scale(Math.max(...values))];
  if (low === high) [low, high] = [low - Math.abs(low || 1) * 0.1, high + Math.abs(high || 1) * 0.1];
  const margin = 0.04 * (high - low);
  [low, high] = [low - margin, high + margin];
  const start = Math.min(...ends), end = Math.max(...ends, start + 1);
  const x = at => left + (at - start) / (end - start) * (width - left - right);
  const y = value => top + (high - scale(value)) / (high - low) * (height - top - bottom);
  const picture = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img"});
  const powers = logarithmic && high - low > 1.5;
  const marks = powers
    ? steps(Math.ceil(low), Math.floor(high), 4).filter(Number.isInteger).map(power => 10 ** power)
    : logarithmic ? steps(10 ** low, 10 ** high, 4) : steps(low, high, 4);
  const texts = powers ? marks.map(short) : labels(marks);
  marks.forEach((mark, at) => picture.append(svg("line", {x1: left, x2: width - right, y1: y(mark), y2: y(mark)}),
    svg("text", {x: left - 5, y: y(mark) + 4, "text-anchor": "end"}, texts[at])));
  steps(start, end, 5).forEach(mark => picture.append(
    svg("text", {x: x(mark), y: height - 6, "text-anchor": "middle"}, mark >= 1e4 ? `${short(mark / 1e3)}k` : short(mark))));
  const draw = (points, colour, style) => picture.append(svg("polyline", {
    points: points.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
    fill: "none", stroke: colour, ...style}));
  lines.forEach(({label, points, colour}) => {
    const long = points.length > 80 && !label.match(/rate$|skipped/);  // those have steps, and no noise
    if (long) draw(points, colour, {"stroke-width": 1, opacity: 0.25});
    draw(long ? smooth(points) : points, colour, {"stroke-width": 1.8});
    if (points.length < 30) points.forEach(([at, value]) => picture.append(
      svg("circle", {cx: x(at), cy: y(value), r: 2.2, fill: colour})));
  });
  const cursor = svg("line", {y1: top, y2: height - bottom, visibility: "hidden"});
  picture.append(cursor);
  const legend = make("div", {className: "legend"});
  function write(at) {
    legend.replaceChildren(...(at === null ? [] : [make("span", {}, `iteration ${Math.round(at).toLocaleString("en")}`)]),
      ...lines.map(({label, points, colour}) => {
        const near = at === null ? points[points.length - 1] : points.reduce(
          (best, one) => Math.abs(one[0] - at) < Math.abs(best[0] - at) ? one : best);
        return make("span", {style: {color: colour}}, `${label} ${short(near[1])}`);
      }));
  }
  picture.addEventListener("pointermove", event => {
    const place = picture.getBoundingClientRect();
    const at = start + ((event.clientX - place.left) / place.width * width - left) / (width - left - right) * (end - start);
    const inside = Math.min(end, Math.max(start, at));
    cursor.setAttribute("visibility", "visible");
    ["x1", "x2"].forEach(name => cursor.setAttribute(name, x(inside)));
    write(inside);
  });
  picture.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); write(null); });
  write(null);
  return make("figure", {className: "chart"}, make("figcaption", {}, title), picture, legend);
}
function charts(all) {
  const drawn = all.filter(one => one);
  return drawn.length ? make("div", {className: "charts"}, ...drawn) : make("p", {}, "Nothing was logged.");
}

const RANK = "val/rank";  // a metric once more, with its sign
function metricsOf(runs) {
  const known = new Set(runs.flatMap(run => Object.keys(run.curves)));
  return [...known].filter(name => name.startsWith("val/") && !name.endsWith("_without_ema") && name !== RANK);
}
function curvesOf(run) {
  const validated = metricsOf([run]);
  const groups = [
    ...validated.map(name => [name.replace("val/", "Validation: "), [name, `${name}_without_ema`], false]), ...CHARTS];
  const named = new Set([...groups.flatMap(([, names]) => names), RANK]);
  Object.keys(run.curves).filter(name => !named.has(name)).forEach(name => groups.push([name, [name], false]));
  return charts(groups.map(([title, names, logarithmic]) => chart(title, names.map((name, at) => ({
    label: name.split("/").pop(), points: run.curves[name], colour: COLOURS[at]})), logarithmic)));
}
function curvesOfAll(runs) {
  const known = new Set(runs.flatMap(run => Object.keys(run.curves)));
  const terms = CHARTS.flatMap(([, names]) => names).filter(name => name.startsWith("train/") && known.has(name));
  const logarithmic = name => CHARTS.some(([, names, log]) => log && names.includes(name));
  return charts([...metricsOf(runs), ...terms].map(name => chart(name, runs.map((run, at) => ({
    label: run.name, points: run.curves[name], colour: COLOURS[at % COLOURS.length]})), logarithmic(name))));
}

function panels(run) {
  if (!run.panels.length) return make("p", {}, "There are none.");
  const iterations = [...new Set(run.panels.map(panel => panel.iteration))];
  const holder = make("div"), said = make("output");
  const range = make("input", {type: "range", min: 0, max: iterations.length - 1, value: iterations.length - 1,
    ariaLabel: "validation"});
  function draw() {
    const iteration = iterations[range.value];
    said.textContent = `iteration ${iteration.toLocaleString("en")}`;
    holder.replaceChildren(...run.panels.filter(panel => panel.iteration === iteration).map(panel => make("figure",
      {className: "panel"}, make("img", {src: panel.address, alt: panel.name}),
      make("figcaption", {}, `${panel.name}: low resolution | bicubic | output | truth`))));
  }
  range.addEventListener("input", draw);
  draw();
  const slider = iterations.length > 1 ? [make("label", {}, "validation ", range)] : [];
  return make("div", {}, make("div", {className: "controls"}, ...slider, said), holder);
}
function settings(run) {
  const overridden = run.overrides.map(([key]) => key.replaceAll("/", "."));
  const bold = key => overridden.some(one => key === one || key.startsWith(`${one}.`)) ? "best" : "";
  const table = sortable([{title: "key", text: true}, {title: "value", text: true}],
    run.settings.map(([key, value]) => [{value: key, label: key, className: bold(key)},
                                        {value, label: value, className: bold(key)}]));
  const filter = make("input", {type: "search", placeholder: "filter"});
  filter.addEventListener("input", () => table.querySelectorAll("tbody tr").forEach(row => {
    row.hidden = !row.textContent.toLowerCase().includes(filter.value.toLowerCase());
  }));
  return make("details", {}, make("summary", {}, `The resolved configuration, ${run.settings.length} values; `
    + "in bold what the command line changed"), filter, table);
}
function size(bytes) { return `${(bytes / 2 ** 20).toFixed(1)} MiB`; }

function section(run) {
  const bad = run.state !== "complete";
  const parts = [make("p", {}, make("span", {className: bad ? "state bad" : "state"}, run.state),
    run.best === null ? "" : `; the best validation was at iteration ${run.best.toLocaleString("en")}`)];
  if (run.failure) parts.push(make("pre", {}, run.failure));
  if (run.overrides.length) parts.push(make("pre", {}, run.overrides.map(([key, value]) => `${key}=${value}`).join("\n")));
  if (run.figures.length) parts.push(sortable([{title: "figure", text: true}, {title: "value"}],
    run.figures.map(([name, value]) => [name, {value: Number(value), label: value}])));
  parts.push(make("h3", {}, "Curves"), curvesOf(run), make("h3", {}, "Image panels"), panels(run));
  parts.push(make("h3", {}, "Checkpoints"), run.checkpoints.length ? sortable(
    [{title: "file", text: true}, {title: "iteration"}, {title: "size"}], run.checkpoints.map(([name, bytes, iteration]) => [
      name, {value: iteration ?? NaN, label: iteration === null ? "unreadable" : iteration.toLocaleString("en")},
      {value: bytes, label: size(bytes)}])) : make("p", {}, "There are none."));
  if (run.remarks.length) parts.push(make("h3", {}, "Warnings"), make("pre", {}, run.remarks.join("\n")));
  parts.push(make("h3", {}, "Configuration"), settings(run));
  return parts;
}

document.getElementById("made").textContent = `Made ${data.made}. ${data.remark}`;
const main = document.getElementById("main");
if (data.summary) {
  const {columns, rows, picture} = data.summary;
  const texts = columns.map((_, at) => rows.some(row => typeof row[at] === "string"));
  const table = sortable(columns.map((title, at) => ({title, text: texts[at], higher: !texts[at]})), rows.map(
    row => row.map((value, at) => value === null ? {value: NaN, label: "–"}
      : typeof value === "number" ? {value, label: short(value)}
      : {value, label: value, className: value.length > 40 ? "long" : ""})));
  const holder = make("section", {id: "run"});
  const names = data.runs.map(run => run.name);
  const open = name => {
    const run = data.runs.find(one => one.name === name);
    holder.replaceChildren(make("h2", {}, `Job ${name}`), make("div", {className: "controls"}, choice("job", names, name, open)),
      ...section(run));
  };
  table.querySelectorAll("tbody tr").forEach(row => {
    const cell = row.children[0], name = cell.textContent;
    cell.replaceChildren(make("a", {href: "#run", textContent: name, onclick: () => open(name)}));
  });
  main.append(table, make("p", {}, "best/ and last/: metrics of the best (as best.ckpt is) and of the last validation. "
    + "loss/: raw, unweighted terms on the training data, means over the last tenth of the log."));
  if (picture) {
    const shown = make("div", {className: "picture"});
    shown.innerHTML = picture;
    main.append(make("h2", {}, "Overrides and figures"), shown);
  }
  main.append(make("h2", {}, "Curves of all jobs"), curvesOfAll(data.runs), holder);
  open(names[0]);
} else {
  main.append(...section(data.runs[0]));
}
