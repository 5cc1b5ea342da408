(() => {
"use strict";
const DATA = JSON.parse(document.getElementById("report-data").textContent);
const FINE = window.matchMedia("(pointer: fine)").matches;
const CONFIG = {responsive: true, displayModeBar: false, scrollZoom: false};
const hidden = {};

const css = (name) => getComputedStyle(ROOT).getPropertyValue(name).trim();
// Plotly reads a few HTML tags in texts; names of cases are no HTML.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const model = (k) => DATA.models[k];
const colour = (k) => css(`--series-${model(k).series}`);
// A triangle looks smaller than a circle of the same width.
const sized = (k, size) => (model(k).symbol.startsWith("triangle") ? size * 1.3 : size);
const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(0);
const known = (values) => values.filter((value) => value !== null);
const isHidden = (target, k) => (hidden[target] || new Set()).has(k);

function axis(title, more = {}) {
  return {
    title: {text: title, standoff: 8, font: {size: 12, color: css("--muted")}}, automargin: true, zeroline: false, showline: true,
    linecolor: css("--line"), gridcolor: css("--line"), tickcolor: css("--line"), ticks: "outside", ticklen: 4,
    tickfont: {size: 11, color: css("--muted")}, ...more,
  };
}

// Printed charts have a fixed width: the paper's is not known while the page is on the screen.
let printing = false;
const printedWidth = (place) => (place.closest(".pair") ? 325 : 670);

function layout(height, more) {
  return {
    height, autosize: !printing, showlegend: false, hovermode: "closest", dragmode: FINE ? "zoom" : false,
    margin: {l: 8, r: 12, t: 14, b: 8}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--text")},
    hoverlabel: {bgcolor: css("--surface"), bordercolor: css("--muted"), font: {color: css("--text"), size: 12}, align: "left"},
    ...more,
  };
}

function note(text, more) {
  return {text, showarrow: false, font: {size: 12, color: css("--muted")}, ...more};
}

function draw(id, traces, shape) {
  const place = document.getElementById(id);
  if (!place) return null;
  const sized = printing ? {...shape, width: printedWidth(place)} : shape;
  return Plotly.react(place, traces, sized, {...CONFIG, responsive: !printing});
}

function dots(k, x, y, more = {}) {
  return {
    type: "scatter", mode: "markers", x, y, name: plain(model(k).name),
    marker: {color: colour(k), symbol: model(k).symbol, size: sized(k, 7), opacity: 0.7, line: {width: 0.8, color: css("--background")}}, ...more,
  };
}

// Every case: models below one another, so that names have room on a phone.
const spread = (i) => (((i * 0.618034) % 1) - 0.5) * 0.26;

function casePath(i, x = [], y = []) {
  DATA.cases.order.forEach((k, row) => {
    const value = DATA.cases.values[k][i];
    x.push(value);
    y.push(value === null ? null : spread(i) - row);
  });
  x.push(null);
  y.push(null);
  return {x, y};
}

function drawCases() {
  if (!DATA.cases) return;
  const {cases, folds, values, means, labels} = DATA.cases;
  const lines = {x: [], y: []};
  cases.forEach((_, i) => casePath(i, lines.x, lines.y));
  const quiet = {type: "scatter", mode: "lines", hoverinfo: "skip"};
  const traces = [{...quiet, ...lines, line: {color: css("--muted"), width: 0.6}, opacity: 0.35}];
  const annotations = [];
  DATA.cases.order.forEach((k, row) => {
    const one = model(k);
    const text = cases.map((name, i) => {
      const parts = Object.entries(labels).map(([label, own]) => `${plain(label)} ${own[k][i] === null ? "–" : own[k][i].toFixed(3)}`);
      return `<b>${plain(name)}</b>, fold ${folds[i]}<br>${plain(one.name)}: ${values[k][i] === null ? "–" : values[k][i].toFixed(3)}<br>${parts.join(", ")}`;
    });
    traces.push(dots(k, values[k], cases.map((_, i) => spread(i) - row), {text, hovertemplate: "%{text}<extra></extra>", customdata: cases.map((_, i) => i)}));
    traces.push({
      type: "scatter", mode: "markers", x: [means[k]], y: [-row], hovertemplate: `mean %{x:.4f}<extra></extra>`,
      marker: {symbol: "line-ns", size: 30, line: {width: 2.6, color: css("--text")}},
    });
    const count = known(values[k]).length;
    annotations.push(note(
      `${plain(one.name)}<span style="color:${css("--muted")}">  ${means[k] === null ? "no Dice" : means[k].toFixed(4)}, ${count} ${count === 1 ? "case" : "cases"}</span>`,
      {xref: "paper", x: 0, xanchor: "left", y: 0.3 - row, yanchor: "middle", font: {size: 12, color: css("--text")}, bgcolor: css("--background"), borderpad: 2},
    ));
  });
  traces.push({...quiet, x: [], y: [], line: {color: css("--text"), width: 2}});
  const place = document.getElementById("chart-cases");
  draw("chart-cases", traces, layout(70 + 78 * means.length, {
    annotations,
    xaxis: axis("Dice of the case, mean of labels"),
    yaxis: {visible: false, range: [-means.length + 0.65, 0.5], fixedrange: true},
    margin: {l: 12, r: 12, t: 8, b: 8},
  }));
  if (place.dataset.follows) return;
  place.dataset.follows = "yes";
  const last = traces.length - 1;
  place.on("plotly_hover", (event) => {
    const i = event.points[0].customdata;
    if (i === undefined) return;
    const path = casePath(i);
    Plotly.restyle(place, {x: [path.x], y: [path.y]}, [last]);
  });
  place.on("plotly_unhover", () => Plotly.restyle(place, {x: [[]], y: [[]]}, [last]));
}

function drawNotebook() {
  if (!DATA.notebook) return;
  const traces = [], annotations = [];
  const shown = DATA.notebook.models.filter((own) => !isHidden("chart-notebook", own.model));
  for (const own of shown) {
    const text = own.cases.map((name) => `<b>${plain(name)}</b><br>${plain(model(own.model).name)}`);
    traces.push(dots(own.model, own.dice, own.score, {text, hovertemplate: "%{text}<br>Dice %{x:.3f}, notebooks' score %{y:.3f}<extra></extra>"}));
  }
  const every = (key) => DATA.notebook.models.flatMap((own) => known(own[key]));
  const low = Math.max(0, Math.min(...every("dice"), ...every("score")) - 0.01);
  traces.push({type: "scatter", mode: "lines", x: [low, 1], y: [low, 1], hoverinfo: "skip", line: {color: css("--muted"), dash: "dash", width: 1.2}});
  for (const own of shown) {
    if (own.mean[0] === null) continue;
    traces.push(dots(own.model, [own.mean[0]], [own.mean[1]], {
      hovertemplate: `mean of ${plain(model(own.model).name)}: Dice %{x:.4f}, notebooks' score %{y:.4f}<extra></extra>`,
      marker: {color: colour(own.model), symbol: model(own.model).symbol, size: sized(own.model, 13), line: {width: 2, color: css("--text")}},
    }));
  }
  const measured = DATA.notebook.measured;
  if (measured.length) {
    traces.push({
      type: "scatter", mode: "markers", x: measured.map((p) => p[2]), y: measured.map((p) => p[1]), text: measured.map((p) => p[0]),
      hovertemplate: "the notebooks' own 2D U-Net, %{text}: Dice %{x:.3f}, its score %{y:.4f}<extra></extra>",
      marker: {symbol: "star", size: 13, color: css("--surface"), line: {width: 1.8, color: css("--text")}},
    });
  }
  const first = shown.find((own) => own.mean[0] !== null);
  const dice = every("dice"), score = every("score");
  const xrange = [Math.min(...dice) - 0.015, Math.max(...dice, 0.9) + 0.015];
  const yrange = [Math.min(...score, xrange[1]) - 0.015, Math.max(...score, 0.95) + 0.015];
  const shapes = [];
  if (first) {
    const guide = {type: "line", line: {color: css("--text"), width: 1, dash: "dot"}};
    shapes.push({...guide, x0: first.mean[0], x1: first.mean[0], y0: yrange[0], y1: first.mean[1]});
    shapes.push({...guide, x0: xrange[0], x1: first.mean[0], y0: first.mean[1], y1: first.mean[1]});
    annotations.push(note(`${first.mean[0].toFixed(3)} per volume is ${first.mean[1].toFixed(3)} there`, {
      xref: "paper", x: 0.01, xanchor: "left", y: first.mean[1], yshift: 11, font: {size: 12, color: css("--text")}, bgcolor: css("--background"), borderpad: 1,
    }));
  }
  draw("chart-notebook", traces, layout(440, {
    annotations, shapes, xaxis: axis("Dice per volume, mean of labels", {range: xrange}), yaxis: axis("the notebooks' score", {range: yrange}),
  }));
}

function drawCurves() {
  const configurations = [...new Set(DATA.curves.map((fold) => fold.configuration))];
  configurations.forEach((configuration, position) => {
    const folds = DATA.curves.filter((fold) => fold.configuration === configuration && !isHidden("curves", fold.model));
    const line = (fold, key, dash, words) => ({
      type: "scatter", mode: "lines+markers", x: fold.epochs, y: fold[key], opacity: 0.85, line: {color: colour(fold.model), width: 1.5, dash},
      marker: {symbol: model(fold.model).symbol, size: sized(fold.model, 6), maxdisplayed: 5, color: colour(fold.model)},
      hovertemplate: `${plain(fold.name)}<br>epoch %{x}: ${words} %{y:.3f}<extra></extra>`,
    });
    draw(`chart-loss-${position}`, folds.flatMap((fold) => [line(fold, "train_loss", "solid", "training loss"), line(fold, "val_loss", "dot", "validation loss")]),
      layout(320, {xaxis: axis("epoch", {rangemode: "tozero"}), yaxis: axis("loss")}));
    draw(`chart-dice-${position}`, folds.map((fold) => line(fold, "pseudo_dice", "solid", "pseudo-Dice")),
      layout(320, {xaxis: axis("epoch", {rangemode: "tozero"}), yaxis: axis("pseudo-Dice")}));
  });
}

let entry = 0;
function drawVolumes() {
  if (!DATA.volumes.length) return;
  const own = DATA.volumes[entry];
  own.labels.forEach((label, position) => {
    const every = DATA.volumes.map((other) => other.labels[position]);
    const reach = Math.max(...every.flatMap((other) => known([...other.difference, ...other.lower, ...other.upper]).map(Math.abs)), 1) * 1.1;
    const across = known(every.flatMap((other) => other.mean));
    const pad = (Math.max(...across) - Math.min(...across)) * 0.05 || 1;
    const shapes = [], annotations = [];
    for (const [name, words, dash] of [["bias", "bias ", "solid"], ["lower", "", "dash"], ["upper", "", "dash"]]) {
      const [value, low, high] = label[name];
      if (value === null) continue;
      const line = {xref: "paper", x0: 0, x1: 1};
      if (low !== null) shapes.push({...line, type: "rect", y0: low, y1: high, fillcolor: css("--band"), line: {width: 0}, layer: "below"});
      shapes.push({...line, type: "line", y0: value, y1: value, line: {color: css("--text"), width: 1.2, dash}});
      annotations.push(note(words + signed(value), {xref: "paper", x: 1, xanchor: "right", y: value, yanchor: "bottom", font: {size: 12, color: css("--text")}, bgcolor: css("--background"), borderpad: 0, yshift: 1}));
    }
    const text = label.cases.map(plain);
    draw(`chart-volume-${position}`, [dots(own.model, label.mean, label.difference, {text, hovertemplate: "<b>%{text}</b><br>mean %{x:.0f} mm³, difference %{y:+.0f} mm³<extra></extra>"})],
      layout(340, {
        shapes, annotations, title: {text: plain(label.label), x: 0, xref: "container", xanchor: "left", y: 0.985, yanchor: "top", font: {size: 14}},
        margin: {l: 8, r: 12, t: 34, b: 8},
        xaxis: axis("mean of predicted and reference, mm³", {range: [Math.min(...across) - pad, Math.max(...across) + pad]}),
        yaxis: axis("predicted minus reference, mm³", {range: [-reach, reach]}),
      }));
  });
}

function drawSizes() {
  if (!DATA.sizes) return;
  const {lines, ticks} = DATA.sizes;
  const traces = lines.map((line, position) => {
    const shift = 1.025 ** (position - (lines.length - 1) / 2); // keeps the models' whiskers apart
    const reach = (ends) => ends.map((end, i) => (end === null ? 0 : Math.abs(end - line.mean[i])));
    const text = line.trained.map((trained, i) => {
      const span = line.low[i] === null ? "" : ` (${line.low[i].toFixed(4)} to ${line.high[i].toFixed(4)})`;
      return `<b>${plain(line.name)}</b><br>${trained} training cases: ${line.mean[i].toFixed(4)}${span}`;
    });
    return {
      type: "scatter", mode: "lines+markers", x: line.cases.map((count) => count * shift), y: line.mean, text,
      visible: !isHidden("chart-sizes", line.model), hovertemplate: "%{text}<extra></extra>",
      line: {color: colour(line.model), width: 1.6}, marker: {color: colour(line.model), symbol: model(line.model).symbol, size: sized(line.model, 8)},
      error_y: {type: "data", symmetric: false, array: reach(line.high), arrayminus: reach(line.low), color: colour(line.model), thickness: 1.2, width: 4},
    };
  });
  draw("chart-sizes", traces, layout(380, {
    xaxis: axis("training cases", {type: "log", tickvals: ticks, ticktext: ticks.map(String)}),
    yaxis: axis(`${DATA.metric}, mean of labels`),
  }));
}

const CHARTS = {"chart-notebook": drawNotebook, "chart-sizes": drawSizes, curves: drawCurves};
function drawAll() {
  drawCases();
  drawNotebook();
  drawCurves();
  drawVolumes();
  drawSizes();
}

for (const legend of document.querySelectorAll(".legend")) {
  const target = legend.dataset.target;
  hidden[target] = new Set();
  legend.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const k = Number(button.dataset.model);
    const off = !hidden[target].delete(k);
    if (off) hidden[target].add(k);
    button.setAttribute("aria-pressed", String(!off));
    CHARTS[target]();
  });
}

for (const choice of document.querySelectorAll(".choice")) {
  choice.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    for (const other of choice.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
    entry = Number(button.dataset.entry);
    drawVolumes();
  });
}

document.addEventListener("themechange", drawAll);

// On paper: light colours, everything unfolded, charts as wide as the page.
let before = null;
window.addEventListener("beforeprint", () => {
  before = {theme: ROOT.dataset.theme, folded: [...document.querySelectorAll("main details:not([open])")]};
  ROOT.dataset.theme = "light";
  for (const details of before.folded) details.open = true;
  printing = true;
  document.dispatchEvent(new Event("themechange"));
});
window.addEventListener("afterprint", () => {
  if (!before) return;
  if (before.theme) ROOT.dataset.theme = before.theme; else delete ROOT.dataset.theme;
  for (const details of before.folded) details.open = false;
  before = null;
  printing = false;
  document.dispatchEvent(new Event("themechange"));
});

const markScrolling = () => {
  for (const scroll of document.querySelectorAll(".box .scroll")) {
    scroll.closest(".box").classList.toggle("scrolls", scroll.scrollWidth > scroll.clientWidth + 1);
  }
};
window.addEventListener("resize", markScrolling);
for (const details of document.querySelectorAll("main details")) details.addEventListener("toggle", markScrolling);
markScrolling();

const contents = document.getElementById("contents");
if (window.matchMedia("(max-width: 68rem)").matches) contents.open = false;
const links = new Map([...contents.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
const watcher = new IntersectionObserver((seen) => {
  for (const {target, isIntersecting} of seen) {
    if (!isIntersecting || !links.has(target.id)) continue;
    for (const link of links.values()) link.removeAttribute("aria-current");
    links.get(target.id).setAttribute("aria-current", "true");
  }
}, {rootMargin: "-20% 0px -70% 0px"});
for (const section of document.querySelectorAll("main section")) watcher.observe(section);

drawAll();
})();
