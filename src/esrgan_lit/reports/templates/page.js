// What moves in the pages: sorting, filters, and the sliders. All of their content is in the HTML.
"use strict";

function make(tag, properties, ...children) {
  const {style, ...rest} = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.style, style || {});
  element.append(...children);
  return element;
}

// Tables: a click on a head sorts by it, the best first; what does not exist stands last either way.
document.querySelectorAll("table.sortable").forEach(table => {
  const heads = [...table.querySelectorAll("th")], body = table.tBodies[0];
  heads.forEach((head, at) => head.addEventListener("click", () => {
    const orders = ["ascending", "descending"], first = "higher" in head.dataset ? 1 : 0;
    const order = head.getAttribute("aria-sort") === orders[first] ? orders[1 - first] : orders[first];
    heads.forEach(one => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1, text = head.classList.contains("text");
    const valueOf = row => text ? row.cells[at].textContent.trim() : Number(row.cells[at].dataset.value);
    const missing = value => text ? value === "–" : Number.isNaN(value);
    body.append(...[...body.rows].sort((a, b) => {
      const [x, y] = [valueOf(a), valueOf(b)];
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      return sign * (text ? x.localeCompare(y, undefined, {numeric: true}) : x === y ? 0 : x < y ? -1 : 1);
    }));
  }));
});

document.querySelectorAll(".filter").forEach(filter => filter.addEventListener("input", () => {
  const wanted = filter.value.toLowerCase();
  filter.parentElement.querySelectorAll("tbody tr").forEach(row => {
    row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}));

// A link to a job opens it.
function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
}
window.addEventListener("hashchange", openTarget);
openTarget();

// Panels: one validation at a time.
document.querySelectorAll(".panels").forEach(panels => {
  const range = panels.querySelector("input");
  const validations = panels.querySelectorAll(":scope > div:not(.controls)");
  if (range) range.addEventListener("input", () => validations.forEach((one, at) => { one.hidden = at !== Number(range.value); }));
});

// Two methods of an image, one over the other, and the crops in which all methods differ most.
document.querySelectorAll(".compare").forEach(section => {
  const find = selector => section.querySelector(selector);
  const images = JSON.parse(find("script").textContent);
  const [choice, left, right, zoom, range] = [".image", "select.left", "select.right", ".zoom", "input"].map(find);
  const [viewer, stage, under, over, bar] = [".viewer", ".stage", ".under", ".over", ".bar"].map(find);
  let image, pans, boxes = [];

  function move(at) {
    range.value = Math.round(1000 * Math.min(1, Math.max(0, at)));
    over.style.clipPath = `inset(0 ${100 - range.value / 10}% 0 0)`;
    bar.style.left = `${range.value / 10}%`;
  }
  function draw() {
    const [one, other] = [left, right].map(select => image.methods[select.value]);
    const room = section.clientWidth - 2, scale = zoom.value === "fit" ? room / image.width : Number(zoom.value);
    pans = image.width * scale > room;  // a finger then moves the picture, and the bar by its handle or a tap
    stage.classList.toggle("pans", pans);
    stage.classList.toggle("shrunk", scale < 1);
    stage.style.width = `${image.width * scale}px`;
    stage.style.height = `${image.height * scale}px`;
    [over.src, under.src] = [one.address, other.address];
    find(".tag.left").textContent = one.name;
    find(".tag.right").textContent = other.name;
    find(".captions").textContent = [one.caption, other.caption, ...image.notes].join("\n");
    boxes.forEach(box => box.remove());
    boxes = image.crops.map(([top, start], at) => make("div", {className: "box", textContent: at + 1, style: {
      left: `${start * scale}px`, top: `${top * scale}px`,
      width: `${Math.min(image.side, image.width) * scale}px`,
      height: `${Math.min(image.side, image.height) * scale}px`}}));
    stage.append(...boxes);
    move(range.value / 1000);
  }
  function choose() {
    image = images[choice.value];
    const side = Math.min(192, (section.clientWidth - 8) / 2), factor = side / image.side;  // two beside each other at least
    section.style.setProperty("--crop", `${side}px`);
    [left, right].forEach(select => {
      const before = select.selectedOptions[0]?.textContent, names = image.methods.map(method => method.name);
      select.replaceChildren(...names.map((name, at) => make("option", {value: at, textContent: name})));
      const kept = names.indexOf(before);
      select.value = kept >= 0 ? kept : select === left ? Math.min(1, names.length - 1) : names.length - 1;
    });
    find(".crops").replaceChildren(...image.crops.flatMap(([top, start], at) => [
      make("p", {textContent: `crop ${at + 1}`}),
      ...image.methods.map(({name, address}) => make("figure", {},
        make("div", {className: "crop"}, make("img", {src: address, alt: name, style: {
          width: `${image.width * factor}px`, height: `${image.height * factor}px`,
          left: `${-start * factor}px`, top: `${-top * factor}px`}})),
        make("figcaption", {textContent: name})))]));
    draw();
  }
  choice.addEventListener("change", choose);
  [left, right, zoom].forEach(select => select.addEventListener("change", draw));
  range.addEventListener("input", () => move(range.value / 1000));
  const follow = event => {
    const place = stage.getBoundingClientRect();
    move((event.clientX - place.left) / place.width);
  };
  // A mouse drags the bar from anywhere. A finger does so sideways, where it has nothing to pan; up and down it scrolls
  // the page, as everywhere. By its handle the bar always follows.
  let held = null;
  stage.addEventListener("pointerdown", event => {
    const finger = event.pointerType === "touch";
    if (!event.isPrimary || (finger && pans && event.target !== bar)) return;
    held = {x: event.clientX, y: event.clientY, moves: !finger};
    stage.setPointerCapture(event.pointerId);
    if (held.moves) follow(event);
  });
  stage.addEventListener("pointermove", event => {
    if (!held || !event.isPrimary) return;
    held.moves ||= Math.abs(event.clientX - held.x) > Math.abs(event.clientY - held.y);
    if (held.moves) follow(event);
  });
  ["pointerup", "pointercancel"].forEach(end => stage.addEventListener(end, () => { held = null; }));
  stage.addEventListener("click", follow);  // a tap, too
  window.addEventListener("resize", draw);
  const room = section.clientWidth - 2;
  zoom.value = images[0].width > room ? "fit" : images[0].width < 400 && 2 * images[0].width <= room ? 2 : 1;
  choose();
});
