// What the page of an evaluation shows; page.html of the package has the helpers and `data`.
"use strict";
const metricOf = Object.fromEntries(data.metrics.map(metric => [metric.name, metric]));

function number(value) {
  return value === null || value === undefined ? NaN : value === "∞" ? Infinity : value;
}
function metricColumns() {
  return data.metrics.map(metric => ({
    title: metric.title + (metric.higher ? " ↑" : " ↓"), hint: metric.protocol, higher: metric.higher
  }));
}
function metricCells(values, all) {
  return data.metrics.map(metric => {
    const column = all.map(one => number(one[metric.name])).filter(value => !Number.isNaN(value));
    const best = metric.higher ? Math.max(...column) : Math.min(...column);
    const value = number(values[metric.name]);
    return {value, label: shown(values[metric.name], metric.digits), className: value === best ? "best" : ""};
  });
}

function viewer(set) {
  const images = set.images.filter(image => image.pixels);
  if (!images.length) return make("p", {textContent: "No image of this set is in the page; see the folder pictures."});
  const state = {image: images[0], left: null, right: null, at: 0.5, zoom: 0};
  const controls = make("div", {className: "controls"});
  const stage = make("div", {className: "stage"});
  const frame = make("div", {className: "viewer"}, stage);
  const crops = make("div", {className: "crops"});
  const under = make("img", {alt: "", draggable: false}), over = make("img", {alt: "", draggable: false});
  const bar = make("div", {className: "bar"});
  const tags = [make("span", {className: "tag", style: {left: "0"}}),
                make("span", {className: "tag", style: {right: "0"}})];
  const range = make("input", {type: "range", min: 0, max: 1000, value: 500, ariaLabel: "position of the slider"});
  const figures = make("p"), note = make("p");

  function names() { return Object.keys(state.image.pixels); }
  function move(at) {
    state.at = Math.min(1, Math.max(0, at));
    range.value = Math.round(1000 * state.at);
    over.style.clipPath = `inset(0 ${100 * (1 - state.at)}% 0 0)`;
    bar.style.left = `${100 * state.at}%`;
  }
  function label(name) {
    const values = state.image.values[name];
    if (!values) return name;
    return `${name}: ` + data.metrics.map(
      metric => `${metric.title} ${shown(values[metric.name], metric.digits)}`).join(", ");
  }
  function draw() {
    const image = state.image;
    stage.style.width = `${image.width * state.zoom}px`;
    stage.style.height = `${image.height * state.zoom}px`;
    over.src = image.pixels[state.left];
    under.src = image.pixels[state.right];
    tags[0].textContent = state.left;
    tags[1].textContent = state.right;
    figures.replaceChildren(label(state.left), make("br"), label(state.right));
    const boxes = image.places.map(([top, left], at) => make("div", {className: "box", textContent: at + 1, style: {
      left: `${left * state.zoom}px`, top: `${top * state.zoom}px`,
      width: `${Math.min(image.side, image.width) * state.zoom}px`,
      height: `${Math.min(image.side, image.height) * state.zoom}px`}}));
    stage.replaceChildren(under, over, bar, ...tags, ...boxes);
    move(state.at);
    note.textContent = Object.entries(image.notes).map(([name, text]) => `${name}: ${text}`).join(" · ");
  }
  function drawCrops() {
    const image = state.image, factor = 192 / image.side;
    crops.replaceChildren(...image.places.flatMap(([top, left], at) => [
      make("div", {style: {flexBasis: "100%"}}, `place ${at + 1}`),
      ...Object.entries(image.pixels).map(([name, pixels]) => make("figure", {},
        make("div", {className: "crop"}, make("img", {src: pixels, alt: name, style: {
          width: `${image.width * factor}px`, height: `${image.height * factor}px`,
          left: `${-left * factor}px`, top: `${-top * factor}px`}})),
        make("figcaption", {textContent: name})))
    ]));
  }
  function choose(name) {
    state.image = images.find(image => image.name === name);
    if (!state.zoom) state.zoom = state.image.width < 400 ? 2 : 1;
    const known = names();
    const methods = known.filter(one => one !== "truth");
    if (!known.includes(state.left)) state.left = methods[0] || "truth";
    if (!known.includes(state.right)) state.right = methods[methods.length - 1] || "truth";
    controls.replaceChildren(
      choice("image", images.map(image => image.name), state.image.name, choose),
      choice("left", known, state.left, value => { state.left = value; draw(); }),
      choice("right", known, state.right, value => { state.right = value; draw(); }),
      choice("zoom", ["1", "2", "4", "8"], String(state.zoom), value => { state.zoom = Number(value); draw(); }),
      make("label", {}, "slider ", range));
    draw();
    drawCrops();
  }
  range.addEventListener("input", () => move(range.value / 1000));
  const follow = event => {
    const place = stage.getBoundingClientRect();
    move((event.clientX - place.left) / place.width);
  };
  stage.addEventListener("pointerdown", event => { stage.setPointerCapture(event.pointerId); follow(event); });
  stage.addEventListener("pointermove", event => { if (event.buttons) follow(event); });
  choose(state.image.name);
  return make("section", {className: "compare"}, controls, frame, figures, note,
    make("h3", {textContent: "Where the methods differ most"}), crops);
}

function section(set) {
  const parts = [make("h2", {textContent: set.name}),
                 make("p", {textContent: `${set.images.length} images; ${set.origin}.`})];
  const all = set.methods.map(method => set.figures[method]);
  parts.push(sortable([{title: "method", text: true}, ...metricColumns()],
    set.methods.map(method => [method, ...metricCells(set.figures[method], all)])));
  parts.push(make("h3", {textContent: "Any two methods"}), viewer(set));
  if (set.plane) {
    const holder = make("div");
    holder.innerHTML = set.plane;
    parts.push(make("h3", {textContent: "Perception and distortion"}), holder);
  }
  if (set.literature.length) {
    const columns = [{title: "model", text: true}, {title: "metric", text: true}, {title: "published"},
      ...set.methods.map(method => ({title: method, hint: "ours (difference from the published figure)"})),
      {title: "protocol and source", text: true}];
    parts.push(make("h3", {textContent: "Beside the literature: ours and the difference"}), sortable(columns,
      set.literature.map(row => {
        const digits = metricOf[row.metric].digits;
        return [row.model, metricOf[row.metric].title, {value: row.published, label: shown(row.published, digits)},
          ...set.methods.map(method => {
            const ours = row.ours[method], difference = number(ours) - row.published;
            const sign = difference < 0 ? "−" : "+";
            return {value: difference, label: ours === null ? "–"
              : `${shown(ours, digits)} (${sign}${Math.abs(difference).toFixed(digits)})`};
          }), {value: row.source, label: `${row.protocol}; ${row.source}`, className: "long"}];
      })));
  }
  parts.push(make("h3", {textContent: "Each image"}));
  parts.push(sortable([{title: "image", text: true}, {title: "method", text: true}, ...metricColumns(),
    {title: "note", text: true}], set.images.flatMap(image => set.methods.filter(method => image.values[method]).map(
      method => [image.name, method, ...metricCells(image.values[method], Object.values(image.values)),
        {value: image.notes[method] || "", label: image.notes[method] || "", className: "long"}]))));
  return parts;
}

document.getElementById("made").textContent = `Made ${data.made}. ${data.remark} A click on a column's head sorts by it.`;
const main = document.getElementById("main");
data.sets.forEach(set => main.append(...section(set)));
main.append(make("h2", {textContent: "Protocols"}),
  make("ul", {}, ...data.metrics.map(metric => make("li", {}, make("b", {textContent: metric.title}), `: ${metric.protocol}.`)),
    ...Object.entries(data.absent).map(([name, reason]) => make("li", {}, make("b", {textContent: name}), ` is absent: ${reason}`))),
  make("h2", {textContent: "Methods"}),
  make("ul", {}, ...Object.entries(data.sources).map(([name, source]) => make("li", {}, make("b", {textContent: name}), `: ${source}`))));
