// The slice scroller's drawing: an image, and outlines along the edges of voxels.

// Axis that is fixed, axis across and axis up, of voxels whose axes point right, anterior and superior.
const PLANES = [
  { name: "Sagittal", fixed: 0, across: 1, up: 2 },
  { name: "Coronal", fixed: 1, across: 0, up: 2 },
  { name: "Axial", fixed: 2, across: 0, up: 1 },
];
const ENDS = [["L", "R"], ["P", "A"], ["I", "S"]];
const DASHES = [[8, 4], [3, 3], [13, 4, 3, 4], [5, 5], [13, 4, 3, 4, 3, 4], [1.5, 2.5], [18, 4], [7, 2, 2, 2]];
const THICKNESS = 2.4;
const REFERENCE = "#ffffff";
const MARGIN = 20;

const canvas = byId("slices-canvas");
const slider = byId("slices-slider");
const shade = byId("slices-shade");
const hiddenLabels = new Set();
const shownModels = new Set([0, 1, ...DATA.models.flatMap((model, n) => (model.ensemble ? [n] : []))]);
let showsReference = true;
let volumes = null; // of the current case, once unpacked
let indices = [0, 0, 0];
let placed = null; // where the image lies on the canvas, in CSS pixels

const plane = () => PLANES[chosen("slices-plane")];
const shapeOf = () => DATA.cases[current].slices.shape;
const modelStroke = (n) => onBlack(modelColour(DATA.models[n].colour));

// A slice of a volume: value(a, u), a across and u up.
function cut(volume) {
  const [, ny, nz] = shapeOf();
  const strides = [ny * nz, nz, 1];
  const { fixed, across, up } = plane();
  const start = indices[fixed] * strides[fixed];
  const width = shapeOf()[across], height = shapeOf()[up];
  return {
    width, height,
    value: (a, u) =>
      a < 0 || u < 0 || a >= width || u >= height ? 0 : volume[start + a * strides[across] + u * strides[up]],
  };
}

// Edges between voxels of different labels, joined to lines through the corners of voxels.
function outlines(volume) {
  const { width, height, value } = cut(volume);
  const label = (a, u) => { const found = value(a, u); return hiddenLabels.has(found - 1) ? 0 : found; };
  const neighbours = new Map();
  const key = (a, u) => u * (width + 1) + a;
  const join = (one, other) => {
    if (!neighbours.has(one)) neighbours.set(one, new Set());
    neighbours.get(one).add(other);
  };
  for (let u = 0; u <= height; u++) {
    for (let a = 0; a <= width; a++) {
      const here = label(a, u);
      if (here !== label(a - 1, u)) { join(key(a, u), key(a, u + 1)); join(key(a, u + 1), key(a, u)); }
      if (here !== label(a, u - 1)) { join(key(a, u), key(a + 1, u)); join(key(a + 1, u), key(a, u)); }
    }
  }
  const lines = [];
  const walk = (start) => {
    const line = [start];
    for (let corner = start; neighbours.get(corner).size; ) {
      const next = neighbours.get(corner).values().next().value;
      neighbours.get(corner).delete(next);
      neighbours.get(next).delete(corner);
      line.push(next);
      corner = next;
    }
    lines.push(line.map((corner) => [corner % (width + 1), Math.floor(corner / (width + 1))]));
  };
  const corners = [...neighbours.keys()];
  for (const corner of corners) while (neighbours.get(corner).size % 2) walk(corner);
  for (const corner of corners) while (neighbours.get(corner).size) walk(corner);
  return lines;
}

function drawImage(context) {
  const { width, height, value } = cut(volumes.image);
  const labels = cut(volumes.reference).value;
  const tints = DATA.labels.map((_, n) => rgb(onBlack(labelColour(n))));
  const pixels = new ImageData(width, height);
  for (let u = 0; u < height; u++) {
    for (let a = 0; a < width; a++) {
      const grey = value(a, u), label = labels(a, u);
      const tint = shade.checked && label && !hiddenLabels.has(label - 1) ? tints[label - 1] : null;
      const at = 4 * ((height - 1 - u) * width + a);
      for (let part = 0; part < 3; part++) pixels.data[at + part] = tint ? 0.7 * grey + 0.3 * tint[part] : grey;
      pixels.data[at + 3] = 255;
    }
  }
  const small = element("canvas", { width, height });
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, placed.x, placed.y, placed.width, placed.height);
}

function drawOutline(context, volume, colour, dash) {
  const path = new Path2D();
  const lines = outlines(volume);
  for (const line of lines) {
    line.forEach(([a, u], n) => {
      const x = placed.x + a * placed.across, y = placed.y + placed.height - u * placed.up;
      if (n) path.lineTo(x, y); else path.moveTo(x, y);
    });
  }
  context.lineJoin = "round";
  context.lineCap = "butt";
  context.setLineDash(dash);
  context.strokeStyle = "rgba(0,0,0,0.7)";
  context.lineWidth = THICKNESS + 1.4;
  context.stroke(path);
  context.strokeStyle = colour;
  context.lineWidth = THICKNESS;
  context.stroke(path);
  context.setLineDash([]);
}

function place(stage) {
  const { across, up } = plane();
  const { shape, spacing } = DATA.cases[current].slices;
  const wide = shape[across] * spacing[across], high = shape[up] * spacing[up];
  const scale = Math.min((stage.width - 2 * MARGIN) / wide, (stage.height - 2 * MARGIN) / high);
  const width = wide * scale, height = high * scale;
  return {
    x: (stage.width - width) / 2, y: (stage.height - height) / 2, width, height, scale,
    across: width / shape[across], up: height / shape[up],
  };
}

function drawMarks(context, stage) {
  const { across, up } = plane();
  context.fillStyle = "#d0d4d8";
  context.font = "600 13px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  const middle = [stage.width / 2, stage.height / 2];
  context.fillText(ENDS[across][0], placed.x - MARGIN / 2, middle[1]);
  context.fillText(ENDS[across][1], placed.x + placed.width + MARGIN / 2, middle[1]);
  context.fillText(ENDS[up][1], middle[0], placed.y - MARGIN / 2);
  context.fillText(ENDS[up][0], middle[0], placed.y + placed.height + MARGIN / 2);
  const bar = barLength(placed.width / 3 / placed.scale);
  const right = placed.x + placed.width, level = placed.y + placed.height + MARGIN / 2;
  context.fillRect(right - bar * placed.scale, level + 4, bar * placed.scale, 2);
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "right";
  context.fillText(`${bar} mm`, right, level - 3);
}

// A wide image gets a wide stage, within bounds.
function fitStage() {
  const { across, up } = plane();
  const { shape, spacing } = DATA.cases[current].slices;
  const ratio = (shape[across] * spacing[across]) / (shape[up] * spacing[up]);
  canvas.parentElement.style.aspectRatio = String(Math.max(1, Math.min(1.7, ratio)));
}

function draw() {
  if (!volumes) return;
  fitStage();
  const stage = canvas.parentElement.getBoundingClientRect();
  if (!stage.width) return;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(stage.width * ratio);
  canvas.height = Math.round(stage.height * ratio);
  const context = canvas.getContext("2d");
  context.scale(canvas.width / stage.width, canvas.height / stage.height);
  context.fillRect(0, 0, stage.width, stage.height); // paper has no backgrounds
  placed = place(stage);
  drawImage(context);
  drawMarks(context, stage);
  if (showsReference) drawOutline(context, volumes.reference, REFERENCE, []);
  for (const n of DATA.cases[current].models) {
    if (shownModels.has(n)) drawOutline(context, volumes.predictions[n], modelStroke(n), DASHES[n % DASHES.length]);
  }
}
