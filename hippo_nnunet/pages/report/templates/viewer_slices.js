// The slice scroller's controls and figures.

const NOTCH = 50; // pixels

// Dice of each label between reference and prediction in the slice; null where neither has it.
function sliceDice(volume) {
  const mine = cut(volume), theirs = cut(volumes.reference).value;
  const both = new Array(DATA.labels.length + 1).fill(0), sum = both.slice();
  for (let u = 0; u < mine.height; u++) {
    for (let a = 0; a < mine.width; a++) {
      const one = mine.value(a, u), other = theirs(a, u);
      sum[one]++;
      sum[other]++;
      if (one === other) both[one]++;
    }
  }
  return DATA.labels.map((_, n) => (sum[n + 1] ? (2 * both[n + 1]) / sum[n + 1] : null));
}

const dice = (value) => (value === null ? "–" : value.toFixed(3));
const isThinned = () => DATA.cases[current].slices.step.some((every) => every > 1);

function describe() {
  const { name, slices, models } = DATA.cases[current];
  const { fixed, name: planeName } = plane();
  const index = indices[fixed], inFile = slices.offset[fixed] + index * slices.step[fixed];
  const position = slices.position[fixed] + inFile * slices.slope[fixed];
  const where = `${inFile + 1} of ${slices.full[fixed]}`;
  const [negative, positive] = ENDS[fixed];
  const place = `${positive} ${position.toFixed(1).replace("-", "−")} mm`;
  slider.max = slices.shape[fixed] - 1;
  slider.value = index;
  slider.setAttribute("aria-valuetext", `slice ${where}, ${place}`);
  byId("slices-where").textContent = `${where} · ${place}`;
  byId("slices-where").title = `Counted from ${negative} to ${positive}; position on the scanner's axis towards ${positive}`;
  canvas.setAttribute("aria-label", `${planeName} slice ${where} of ${name}, ${place}`);
  for (const n of models) {
    const found = volumes && !isThinned() ? sliceDice(volumes.predictions[n]) : DATA.labels.map(() => null);
    found.forEach((value, label) => {
      document.querySelector(`#slices-table [data-cell="${n}-${label}"]`).textContent = dice(value);
    });
  }
}

function refresh() {
  describe();
  draw();
}

function swatch(colour, dash) {
  const line = { x1: 3, x2: 41, y1: 8, y2: 8, stroke: colour, "stroke-width": 2.4, "stroke-dasharray": dash.join(" ") };
  return element("svg", { width: 44, height: 16, "aria-hidden": "true" },
    element("rect", { width: 44, height: 16, rx: 4, fill: "#000" }), element("line", line));
}

function buildTable() {
  const { models, dice: ofCase } = DATA.cases[current];
  const labels = DATA.labels.map((name, n) => element("th", { scope: "col" }, labelToggle(name, n, hiddenLabels, refresh)));
  const outline = (name, checked, change, colour, dash) => element("th", { scope: "row" },
    toggle(name, checked, (on) => { change(on); refresh(); }, swatch(colour, dash)));
  const reference = element("tr", {},
    outline("Reference", showsReference, (on) => { showsReference = on; }, REFERENCE, []),
    ...DATA.labels.map(() => element("td")));
  const rows = models.map((n) => element("tr", {},
    outline(modelName(n), shownModels.has(n), (on) => { if (on) shownModels.add(n); else shownModels.delete(n); },
      modelStroke(n), DASHES[n % DASHES.length]),
    ...ofCase[n].map((value, label) => element("td", {},
      element("b", { "data-cell": `${n}-${label}` }, "–"), element("span", { class: "viewer-muted" }, dice(value))))));
  byId("slices-table").replaceChildren(
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Outline"), ...labels)),
    element("tbody", {}, reference, ...rows));
}

function goTo(index) {
  const { fixed } = plane();
  const next = Math.max(0, Math.min(shapeOf()[fixed] - 1, index));
  const moved = next !== indices[fixed];
  indices[fixed] = next;
  if (moved) refresh();
  return moved;
}

const step = (by) => goTo(indices[plane().fixed] + by);

function probe(event) {
  const box = canvas.getBoundingClientRect();
  if (!volumes || !placed) return;
  const a = Math.floor((event.clientX - box.left - placed.x) / placed.across);
  const u = Math.floor((placed.y + placed.height - (event.clientY - box.top)) / placed.up);
  const { across, up } = plane();
  const inside = a >= 0 && u >= 0 && a < shapeOf()[across] && u < shapeOf()[up];
  const named = (volume) => DATA.labels[cut(volume).value(a, u) - 1] || "background";
  const parts = inside ? [`Reference: ${named(volumes.reference)}`] : [];
  for (const n of DATA.cases[current].models) {
    if (inside && shownModels.has(n)) parts.push(`${modelName(n)}: ${named(volumes.predictions[n])}`);
  }
  byId("slices-probe").textContent = parts.join(" · ");
}

function listenToCanvas() {
  let scrolled = 0, drag = null;
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey || !event.deltaY) return;
    const { fixed } = plane(), way = Math.sign(event.deltaY);
    const end = way > 0 ? shapeOf()[fixed] - 1 : 0;
    if (indices[fixed] === end) { scrolled = 0; return; } // the page scrolls on
    event.preventDefault();
    // One slice a notch of a mouse; a touchpad's small steps add up.
    scrolled += event.deltaMode ? NOTCH * way : Math.max(-NOTCH, Math.min(NOTCH, event.deltaY));
    if (Math.abs(scrolled) >= NOTCH) { scrolled = 0; step(way); }
  }, { passive: false });
  onKeys(canvas, () => {
    const last = shapeOf()[plane().fixed] - 1;
    return { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5, Home: -last, End: last };
  }, step);
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, index: indices[plane().fixed] };
    canvas.setPointerCapture(event.pointerId);
    probe(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    const slices = shapeOf()[plane().fixed];
    const pixels = Math.max(4, canvas.clientWidth / slices);
    if (drag) goTo(drag.index + Math.round((event.clientX - drag.x) / pixels));
    probe(event);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { drag = null; });
  canvas.addEventListener("pointerleave", () => { byId("slices-probe").textContent = ""; });
}

async function showSlices() {
  const wanted = current;
  const { image, reference, predictions, start } = DATA.cases[wanted].slices;
  volumes = null;
  indices = start.slice();
  try {
    const found = { predictions: {}, image: await unpacked(image, Uint8Array), reference: await unpacked(reference, Uint8Array) };
    for (const [n, text] of Object.entries(predictions)) found.predictions[n] = await unpacked(text, Uint8Array);
    if (wanted !== current) return;
    volumes = found;
  } catch (error) {
    byId("slices-reason").textContent = error.message;
  }
  buildTable();
  refresh();
}

listenToCanvas();
slider.addEventListener("input", () => goTo(Number(slider.value)));
shade.addEventListener("change", refresh);
onChoice("slices-plane", refresh);
document.addEventListener("themechange", () => { buildTable(); refresh(); });
new ResizeObserver(draw).observe(canvas.parentElement);
listeners.push(showSlices);
