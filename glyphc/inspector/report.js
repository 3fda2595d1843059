"use strict";
// The page of an inspection. Data and the graph's drawing come from glyphc; this pans, zooms, selects and plots.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const svgNames = new Set(["svg", "g", "rect", "line", "path", "text"]);

function el(tag, attributes = {}, ...children) {
  const e = svgNames.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) e.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) e.setAttribute(key, value);
  }
  e.append(...children.filter((c) => c !== null && c !== undefined));
  return e;
}

const seconds = (s) => (s === null || s === undefined ? "" : s >= 1 ? s.toFixed(2) + " s" : s >= 1e-3 ? (s * 1e3).toFixed(1) + " ms" : (s * 1e6).toFixed(0) + " µs");
const short = (x) => (x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3 ? x.toExponential(2) : String(+x.toPrecision(4)));
const name = (n) => `%${n.id} ${n.op}`;
let selected = null;

// -- header --

$("title").textContent = data.title;
$("stage").textContent = `${data.nodes.length} nodes, after ${data.stage}`;
$("warning").hidden = !data.warning;
$("warning").textContent = data.warning;
$("facts").append(...data.facts.map((f) => el("div", { class: "fact" }, el("b", {}, f.value), el("span", {}, f.detail ? `${f.name} · ${f.detail}` : f.name))));
const kinds = { linear: "BGV linear", bootstrap: "TFHE bootstrap", function: "function", switch: "scheme switch", unpack: "unpack", client: "client" };
const present = new Set(data.nodes.map((n) => n.kind));
$("legend").append(...Object.entries(kinds).filter(([k]) => present.has(k)).map(([k, t]) => el("span", {}, el("i", { class: k }), t)));

// -- pan and zoom --

const svg = $("graph"), world = svg.querySelector("g");
const view = { x: 0, y: 0, k: 1 };
const still = { x: 0, y: 0 };

function draw() {
  world.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.k})`);
  svg.classList.toggle("far", view.k < 0.34);
}
function zoom(factor, cx, cy) {
  const box = svg.getBoundingClientRect();
  cx ??= box.width / 2; cy ??= box.height / 2;
  const k = Math.min(4, Math.max(0.02, view.k * factor));
  view.x = cx - ((cx - view.x) * k) / view.k;
  view.y = cy - ((cy - view.y) * k) / view.k;
  view.k = k;
  draw();
}
function fit(whole) {
  const box = svg.getBoundingClientRect();
  const all = Math.min(box.width / (data.width + 40), box.height / (data.height + 40));
  // a large graph opens at its beginning, at a size that can be read
  view.k = whole ? Math.min(1.2, all) : Math.min(1, Math.max(all, 0.6));
  const fits = view.k <= all + 1e-9;
  view.x = Math.max((box.width - data.width * view.k) / 2, fits ? -Infinity : 20);
  view.y = fits ? (box.height - data.height * view.k) / 2 : 16;
  draw();
}
function centre(n) {
  const box = svg.getBoundingClientRect();
  view.k = Math.max(view.k, 0.6);
  view.x = box.width / 2 - n.place[0] * view.k;
  view.y = box.height / 2 - n.place[1] * view.k;
  draw();
}
svg.addEventListener("wheel", (e) => {
  e.preventDefault();
  const box = svg.getBoundingClientRect();
  zoom(Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0015)), e.clientX - box.left, e.clientY - box.top);
}, { passive: false });
svg.addEventListener("pointerdown", (e) => {
  const from = { x: e.clientX - view.x, y: e.clientY - view.y };
  still.x = e.clientX; still.y = e.clientY;
  const move = (m) => { view.x = m.clientX - from.x; view.y = m.clientY - from.y; svg.classList.add("dragging"); draw(); };
  const up = () => { window.removeEventListener("pointermove", move); svg.classList.remove("dragging"); };
  window.addEventListener("pointermove", move);
  window.addEventListener("pointerup", up, { once: true });
});
svg.addEventListener("click", (e) => {
  if (Math.hypot(e.clientX - still.x, e.clientY - still.y) > 4) return;
  const g = e.target.closest(".node");
  select(g ? +g.dataset.id : null);
});
$("zoom-in").onclick = () => zoom(1.35);
$("zoom-out").onclick = () => zoom(1 / 1.35);
$("zoom-fit").onclick = () => fit(true);
svg.addEventListener("keydown", (e) => {
  const n = selected === null ? null : data.nodes[selected];
  const keys = {
    "+": () => zoom(1.35), "-": () => zoom(1 / 1.35), 0: () => fit(true), Escape: () => select(null),
    ArrowUp: () => n && n.operands.length && select(n.operands[0], true),
    ArrowDown: () => select(n ? (n.users.length ? n.users[0] : n.id) : 0, true),
  };
  if (keys[e.key]) { keys[e.key](); e.preventDefault(); }
});
const nodeElements = new Map([...svg.querySelectorAll(".node")].map((g) => [+g.dataset.id, g]));
const edgeElements = [...svg.querySelectorAll(".edge")];

function select(id, move) {
  if (selected !== null) nodeElements.get(selected).classList.remove("on");
  selected = id;
  if (id !== null) {
    nodeElements.get(id).classList.add("on");
    if (move) centre(data.nodes[id]);
  }
  for (const e of edgeElements) e.classList.toggle("on", id !== null && (+e.dataset.source === id || +e.dataset.target === id));
  for (const r of document.querySelectorAll("#timeline rect")) r.classList.toggle("on", id !== null && +r.dataset.node === id);
  panel();
}

// -- search and table --

$("search").addEventListener("input", () => {
  const wanted = $("search").value.trim().toLowerCase();
  const hits = data.nodes.filter((n) => `%${n.id}` === wanted || (!wanted.startsWith("%") && `${n.expression} ${n.location} ${n.scheme}`.toLowerCase().includes(wanted)));
  const ids = new Set(hits.map((n) => n.id));
  for (const [id, g] of nodeElements) g.classList.toggle("dim", wanted !== "" && !ids.has(id));
  for (const row of $("table").querySelectorAll("tbody tr")) row.hidden = wanted !== "" && !ids.has(+row.dataset.id);
  $("found").textContent = wanted ? `${hits.length} found` : "";
});
$("search").addEventListener("keydown", (e) => {
  const first = data.nodes.find((n) => !nodeElements.get(n.id).classList.contains("dim"));
  if (e.key === "Enter" && first) select(first.id, true);
});
const columns = [
  ["node", (n) => n.id, (n) => n.expression], ["shape", (n) => n.shape.join("×")], ["scheme", (n) => n.scheme],
  ["bits", (n) => n.bits ?? -1, (n) => n.bits ?? "", true], ["error", (n) => n.noise?.share ?? -1, (n) => (n.noise ? short(n.noise.total) : ""), true],
  ["predicted", (n) => n.predicted ?? -1, (n) => seconds(n.predicted), true], ["measured", (n) => n.measured ?? -1, (n) => seconds(n.measured), true],
  ["from", (n) => n.location],
];
const order = { column: 0, up: true };

function table() {
  const [, key] = columns[order.column];
  const rows = [...data.nodes].sort((a, b) => (key(a) > key(b) ? 1 : key(a) < key(b) ? -1 : a.id - b.id) * (order.up ? 1 : -1));
  const head = columns.map(([title, , , number], i) => el("th", {
    class: [i === order.column ? "on" : "", order.up ? "up" : "", number ? "number" : ""].join(" "),
    onclick: () => { order.up = i === order.column ? !order.up : !number; order.column = i; table(); },
  }, title));
  const body = rows.map((n) => el("tr", { "data-id": n.id, onclick: () => select(n.id) },
    ...columns.map(([, k, show, number]) => el("td", { class: number ? "number" : "" }, String((show ?? k)(n))))));
  $("table").replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body)));
}
function tab(graph) {
  $("tab-graph").classList.toggle("on", graph);
  $("tab-table").classList.toggle("on", !graph);
  svg.toggleAttribute("hidden", !graph);
  $("table").hidden = graph;
  if (!graph && !$("table").firstChild) table();
}
$("tab-graph").onclick = () => tab(true);
$("tab-table").onclick = () => tab(false);

// -- plots --

function curve(xs, ys, sx, sy) {
  return "M" + xs.map((x, i) => `${sx(x).toFixed(1)} ${sy(ys[i]).toFixed(1)}`).join("L");
}
function scaleTo(lo, hi, a, b) {
  return (v) => a + ((v - lo) / (hi - lo || 1)) * (b - a);
}
function frame(w, h, bottom, ...children) {
  return el("svg", { class: "plot", viewBox: `0 0 ${w} ${h}` }, el("line", { class: "axis", x1: 0, x2: w, y1: bottom, y2: bottom }), ...children);
}
function histogram(h) {
  const [lo, hi] = h.allowed ? [Math.min(h.allowed[0], h.lo), Math.max(h.allowed[1], h.hi)] : [h.lo, h.hi];
  const sx = scaleTo(lo, hi, 4, 356), most = Math.max(...h.counts), step = (h.hi - h.lo) / h.counts.length || 1;
  const bars = h.counts.map((c, i) => c && el("rect", {
    class: "hist", x: sx(h.lo + i * step), width: Math.max(1, sx(h.lo + (i + 1) * step) - sx(h.lo + i * step) - 0.6),
    // square roots: rare values must show
    y: 84 - 76 * Math.sqrt(c / most), height: 76 * Math.sqrt(c / most), "data-count": c,
  })).filter(Boolean);
  const limits = h.allowed ? h.allowed.map((v) => el("line", { class: "limit", x1: sx(v), x2: sx(v), y1: 6, y2: 84 })) : [];
  const labels = [el("text", { x: 0, y: 98 }, short(lo)), el("text", { x: 360, y: 98, "text-anchor": "end" }, short(hi))];
  return frame(360, 100, 84, ...bars, ...limits, ...labels);
}
function fitPlot(f) {
  const ys = [...f.exact, ...f.series], lo = Math.min(...ys), hi = Math.max(...ys);
  const sx = scaleTo(f.x[0], f.x[f.x.length - 1], 4, 356), sy = scaleTo(lo, hi, 132, 8);
  const errors = f.series.map((y, i) => y - f.exact[i]), most = Math.max(...errors.map(Math.abs)) || 1;
  const ey = scaleTo(-most, most, 188, 150);
  return frame(360, 206, 132,
    el("path", { class: "exact", d: curve(f.x, f.exact, sx, sy) }), el("path", { class: "series", d: curve(f.x, f.series, sx, sy) }),
    el("line", { class: "axis", x1: 0, x2: 360, y1: 169, y2: 169 }), el("path", { class: "error", d: curve(f.x, errors, sx, ey) }),
    el("text", { x: 0, y: 146 }, `${short(f.x[0])}`), el("text", { x: 360, y: 146, "text-anchor": "end" }, short(f.x[f.x.length - 1])),
    el("text", { x: 4, y: 14 }, short(hi)), el("text", { x: 4, y: 129 }, short(lo)), el("text", { x: 360, y: 204, "text-anchor": "end" }, `error ± ${short(most)}`));
}
function layoutPlot(l, part) {
  const side = 2 ** Math.ceil(Math.log2(l.ring) / 2), rows = l.ring / side;
  const canvas = el("canvas", { class: "layout", width: side, height: rows, title: `${side} coefficients a row` });
  canvas.style.aspectRatio = `${side} / ${rows}`;
  const context = canvas.getContext("2d"), image = context.createImageData(side, rows);
  const samples = Math.ceil(l.batch / l.chunks);
  let used = 0;
  for (let b = 0; b < samples; b++) {
    for (let k = 0, feature = part; feature < l.features; k++, feature += l.parts) {
      const at = 4 * (b * l.batch_stride + k * l.stride), shade = 0.55 + (0.45 * feature) / l.features;
      // neighbouring samples in two colours, features from dark to light
      const colour = b % 2 ? [180, 83, 42] : [47, 111, 181];
      for (let c = 0; c < 3; c++) image.data[at + c] = Math.min(255, colour[c] * shade * 1.25);
      image.data[at + 3] = 255;
      used++;
    }
  }
  context.putImageData(image, 0, 0);
  canvas.dataset.used = used;
  return canvas;
}

// -- the panel --

const refs = (ids) => (ids.length ? ids.map((i) => el("a", { class: "ref", onclick: () => select(i, true) }, name(data.nodes[i]))) : ["none"]);
const list = (pairs) => el("dl", {}, ...pairs.filter(([, v]) => v !== "" && v !== null).flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, ...[v].flat())]));

function overview() {
  const time = (n) => (data.encrypted ? n.measured : n.predicted) ?? 0;
  const busy = data.nodes.filter((n) => time(n) > 0).sort((a, b) => time(b) - time(a)).slice(0, 8);
  const out = [el("h1", {}, "Overview"), el("p", { class: "muted" }, "Click a node for its shapes, ranges, fit, noise, time and layout.")];
  if (data.notes.length) out.push(el("h2", {}, "Warnings"), ...data.notes.map((n) => el("div", { class: "note" }, n)));
  if (busy.length) {
    const rows = busy.map((n) => el("tr", {}, el("td", {}, ...refs([n.id]), el("span", { class: "muted" }, n.location)), el("td", { class: "number" }, seconds(n.predicted)), el("td", { class: "number" }, seconds(n.measured))));
    out.push(el("h2", {}, "Where the time goes"), el("table", {}, el("tr", {}, el("th", {}, "node"), el("th", { class: "number" }, "predicted"), el("th", { class: "number", title: "seconds of a pass" }, "measured")), ...rows));
  }
  if (data.run.length) out.push(el("h2", {}, "Recorded run"), list(data.run.map((f) => [f.name, f.detail ? `${f.value} · ${f.detail}` : f.value])));
  return out;
}
function details(n) {
  const out = [
    el("h1", {}, n.expression),
    el("p", { class: n.kind }, el("span", { class: "chip" }, n.scheme ? `${n.scheme}${n.encoding ? " " + n.encoding : ""}` : n.kind), el("span", { class: "muted" }, n.location)),
    list([["shape", `[${n.shape.join(", ")}]`], ["precision", n.bits ? `${n.bits} bits` : ""], ["allowed", n.range ? `${short(n.range[0])} to ${short(n.range[1])}` : ""],
      ["reads", refs(n.operands)], ["read by", refs(n.users)], ["predicted", seconds(n.predicted)], ["measured", seconds(n.measured)]]),
  ];
  if (n.histogram) out.push(el("h2", {}, "Range in calibration"), histogram(n.histogram), el("p", { class: "key" }, `${short(n.histogram.lo)} to ${short(n.histogram.hi)} seen${n.histogram.allowed ? "; dashed: what the format allows" : ""}; heights are square roots of counts`));
  if (n.fit !== null) {
    const f = data.fits[n.fit];
    out.push(el("h2", {}, "Activation and its series"), fitPlot(f), el("p", { class: "key" }, `solid: series of degree ${f.degree}; dashed: ${f.functions}. Fit: at most ${(100 * f.max_error).toPrecision(2)} %, rms ${(100 * f.rms_error).toPrecision(2)} % of the range`));
  }
  if (n.noise) {
    const parts = [["ciphertext", n.noise.ciphertext, "linear"], ["bootstrap", n.noise.bootstrap, "bootstrap"], ["approximation", n.noise.approximation, "unpack"]];
    const sum = parts.reduce((s, [, v]) => s + v * v, 0) || 1;
    out.push(el("h2", {}, "Noise budget"), el("div", { class: "meter" }, ...parts.map(([, v, kind]) => { const b = el("div", { class: `bar ${kind}` }); b.style.width = `${(100 * v * v) / sum}%`; return b; })),
      list([...parts.map(([k, v]) => [k, short(v)]), ["together", `${short(n.noise.total)} rms, ${(100 * n.noise.share).toPrecision(2)} % of the range`],
        ["left", n.noise.bits_left === null ? "" : `${n.noise.bits_left.toFixed(1)} bits before ciphertext noise shows`]]));
  }
  if (n.layout !== null) {
    const l = data.layouts[n.layout], count = l.chunks * l.parts;
    out.push(el("h2", {}, "Layout"), list([["ciphertexts", `${count} (${l.chunks} chunk(s) of ${l.parts} part(s))`], ["used", `${(100 * l.occupancy).toPrecision(3)} % of the coefficients`],
      ["strides", `features ${l.stride}, samples ${l.batch_stride}`]]), layoutPlot(l, 0), el("p", { class: "key" }, `Coefficients of the first ciphertext, X^0 in the top left corner; ${l.used.toLocaleString("en")} of ${l.ring.toLocaleString("en")} used. Colours alternate by sample.`));
  }
  for (const d of n.decisions) {
    out.push(el("h2", {}, `Why: ${d.made_by}`), d.warning ? el("div", { class: "note" }, d.warning) : null,
      el("table", {}, ...d.choices.map((c) => el("tr", { class: c.chosen ? "chosen" : "" }, el("td", {}, c.name), el("td", { class: "number" }, c.seconds === null ? "" : seconds(c.seconds)), el("td", { class: "muted" }, c.reason)))));
  }
  return out.filter(Boolean);
}
function panel() {
  $("panel").replaceChildren(...(selected === null ? overview() : details(data.nodes[selected])));
  $("panel").scrollTop = 0;
}

// -- the timeline --

const lanes = ["load", "linear", "function", "unpack", "switch", "bootstrap", "client", "store"];

function timeline(which) {
  const spans = data[which], w = 1000, laneHeight = 15;
  const used = lanes.filter((k) => spans.some((s) => s.kind === k));
  const end = spans.length ? Math.max(...spans.map((s) => s.start + s.seconds)) : 0;
  const sx = scaleTo(0, end, 0, w);
  const bars = spans.map((s) => el("rect", { class: s.kind, x: sx(s.start), y: used.indexOf(s.kind) * laneHeight + 2, width: Math.max(0.6, sx(s.seconds)), height: laneHeight - 4, "data-node": s.node,
    onclick: () => select(s.node, true), onmousemove: (e) => tip(e, `${name(data.nodes[s.node])} ${data.nodes[s.node].location} · ${s.count > 1 ? s.count + " instructions · " : ""}${seconds(s.seconds)} from ${seconds(s.start)}`), onmouseleave: () => { $("tip").hidden = true; } }));
  const chart = el("svg", { viewBox: `0 0 ${w} ${used.length * laneHeight}`, preserveAspectRatio: "none", height: used.length * laneHeight }, ...bars);
  const names = el("div", { class: "muted" });
  names.style.cssText = `font-size:10.5px;line-height:${laneHeight}px;flex:none;width:66px`;
  names.append(...used.map((k) => el("div", {}, k)));
  const row = el("div", {}, names, chart);
  row.style.cssText = "display:flex";
  $("timeline").replaceChildren(row);
  $("timeline-sum").textContent = `${which}: ${seconds(end)}, ${spans.length} steps`;
  for (const b of $("timeline-switch").children) b.classList.toggle("on", b.dataset.which === which);
}
function tip(e, text) {
  const t = $("tip");
  t.textContent = text;
  t.hidden = false;
  t.style.left = `${Math.min(e.clientX + 12, window.innerWidth - t.offsetWidth - 8)}px`;
  t.style.top = `${e.clientY - 34}px`;
}
const kindsOfTimeline = (data.encrypted ? ["measured", "predicted"] : ["predicted", "measured"]).filter((k) => data[k].length);
$("timeline-switch").append(...kindsOfTimeline.map((k) => el("button", { "data-which": k, onclick: () => timeline(k) }, k)));
if (kindsOfTimeline.length) timeline(kindsOfTimeline[0]);
else document.querySelector("footer").hidden = true;

panel();
// until the reader moves it, the graph follows the size of the window
let untouched = true;
for (const event of ["wheel", "pointerdown", "keydown"]) svg.addEventListener(event, () => { untouched = false; });
document.querySelector(".toolbar").addEventListener("click", () => { untouched = false; });
new ResizeObserver(() => { if (untouched) (selected === null ? fit(false) : centre(data.nodes[selected])); }).observe(svg);
fit(false);
// a link may name a node: report.html#7
if (/^#\d+$/.test(location.hash) && +location.hash.slice(1) < data.nodes.length) select(+location.hash.slice(1), true);
document.body.dataset.ready = performance.now().toFixed(0);
