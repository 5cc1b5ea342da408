// The surfaces: reference and one prediction as meshes, turned together.

const AHEAD = { eye: { x: 0.72, y: -0.57, z: 0.4 }, center: { x: 0, y: 0, z: 0 }, up: { x: 0, y: 0, z: 1 } };
const DIVERGING = [[0, "#0072b2"], [0.25, "#7fb3d5"], [0.5, "#f2f2f2"], [0.75, "#eaa57a"], [1, "#d55e00"]];
const LIGHT = { ambient: 0.55, diffuse: 0.7, specular: 0.15, roughness: 0.7, fresnel: 0.1 };
const NARROW = 620;

const plot = byId("surface-plot");
const modelPicker = byId("surface-model");
const opacity = byId("surface-opacity");
const hiddenSurfaces = new Set();
const unpackedMeshes = new Map();
let camera = structuredClone(AHEAD);
let distance = 1; // of the camera, from which everything fits into a scene
let wantedModel = 0;
let isNear = false;
let turn = 0; // the newest drawing wins

const isOverlaid = () => chosen("surface-layout") === 1;
const byDistance = () => chosen("surface-colour") === 1;

function summed(differences) {
  for (let n = 1; n < differences.length; n++) differences[n] += differences[n - 1];
  return differences;
}

async function meshOf(caseIndex, name, label) {
  const { meshes, unit, distance_unit: distanceUnit } = DATA.cases[caseIndex].surfaces;
  const packed = meshes[name][label];
  const key = `${caseIndex} ${name} ${label}`;
  if (!packed) return null;
  if (!unpackedMeshes.has(key)) {
    const vertices = await unpacked(packed.vertices, Int32Array);
    const count = vertices.length / 3;
    const [x, y, z] = [0, 1, 2].map((axis) => Array.from(summed(vertices.slice(axis * count, (axis + 1) * count)), (v) => v * unit));
    const faces = summed(await unpacked(packed.faces, Int32Array));
    const [i, j, k] = [0, 1, 2].map((corner) => Array.from({ length: faces.length / 3 }, (_, n) => faces[3 * n + corner]));
    const distance = packed.distance ? Array.from(await unpacked(packed.distance, Int16Array), (d) => d * distanceUnit) : null;
    unpackedMeshes.set(key, { x, y, z, i, j, k, distance });
  }
  return unpackedMeshes.get(key);
}

function meshTrace(mesh, scene, label, owner, extra) {
  return {
    type: "mesh3d", scene, x: mesh.x, y: mesh.y, z: mesh.z, i: mesh.i, j: mesh.j, k: mesh.k,
    name: `${owner}: ${DATA.labels[label]}`, lighting: LIGHT, lightposition: { x: 2000, y: -3000, z: 4000 },
    flatshading: false, color: labelColour(label), hovertemplate: "%{fullData.name}<extra></extra>", ...extra,
  };
}

// Move a surface outwards by a little, in mm.
function grown(mesh, by) {
  const normals = [mesh.x, mesh.y, mesh.z].map(() => new Float64Array(mesh.x.length));
  for (let face = 0; face < mesh.i.length; face++) {
    const corners = [mesh.i[face], mesh.j[face], mesh.k[face]];
    const at = corners.map((corner) => [mesh.x[corner], mesh.y[corner], mesh.z[corner]]);
    const [one, two] = [1, 2].map((corner) => at[corner].map((value, axis) => value - at[0][axis]));
    for (const corner of corners) {
      for (let axis = 0; axis < 3; axis++) {
        const next = (axis + 1) % 3, last = (axis + 2) % 3;
        normals[axis][corner] += one[next] * two[last] - one[last] * two[next];
      }
    }
  }
  const lengths = mesh.x.map((_, n) => Math.hypot(normals[0][n], normals[1][n], normals[2][n]) || 1);
  const moved = (values, axis) => values.map((value, n) => value + (by * normals[axis][n]) / lengths[n]);
  return { ...mesh, x: moved(mesh.x, 0), y: moved(mesh.y, 1), z: moved(mesh.z, 2) };
}

async function traces(model) {
  const made = [], missing = [];
  const overlaid = isOverlaid();
  for (let label = 0; label < DATA.labels.length; label++) {
    if (hiddenSurfaces.has(label)) continue;
    const reference = await meshOf(current, "reference", label);
    const prediction = await meshOf(current, String(model), label);
    if (!reference) missing.push(`The reference has no ${DATA.labels[label]}.`);
    if (!prediction) missing.push(`The prediction has no ${DATA.labels[label]}.`);
    if (prediction) {
      const coloured = prediction.distance
        ? { intensity: prediction.distance, coloraxis: "coloraxis", hovertemplate: "%{fullData.name}: %{intensity:.2f} mm<extra></extra>" }
        : { color: "#8c8c8c" };
      made.push(meshTrace(prediction, overlaid ? "scene" : "scene2", label, modelName(model), byDistance() ? coloured : {}));
    }
    if (reference) {
      const grey = overlaid ? { opacity: Number(opacity.value), color: "#a9b0b7" } : {};
      const { spacing, step } = DATA.cases[current].slices;
      const tenth = 0.1 * Math.min(...spacing.map((size, axis) => size / step[axis]));
      const drawn = overlaid ? grown(reference, tenth) : reference;
      if (!overlaid || grey.opacity > 0) made.push(meshTrace(drawn, "scene", label, "Reference", grey));
    }
  }
  return { made, missing };
}

function marks(scene) {
  const { extent } = DATA.cases[current].surfaces;
  const colour = themed("--muted");
  const reach = extent.map((half) => half + 0.18 * Math.max(...extent));
  const ends = ENDS.flatMap(([negative, positive], axis) => [[axis, -1, negative], [axis, 1, positive]]);
  const at = (part) => ends.map(([axis, way]) => (axis === part ? way * reach[axis] : 0));
  const bar = barLength(0.7 * extent[1]);
  const quiet = { type: "scatter3d", scene, hoverinfo: "skip", showlegend: false };
  const corner = [-extent[0], -extent[1], -extent[2] * 1.05];
  return [
    { ...quiet, mode: "text", x: at(0), y: at(1), z: at(2), text: ends.map(([, , text]) => text), textfont: { color: colour, size: 14 } },
    { ...quiet, mode: "lines+text", x: [corner[0], corner[0]], y: [corner[1], corner[1] + bar], z: [corner[2], corner[2]],
      line: { color: colour, width: 4 }, text: [`${bar} mm`, ""], textposition: "bottom center", textfont: { color: colour, size: 12 } },
  ];
}

function sceneLayout(domain) {
  const { extent } = DATA.cases[current].surfaces;
  const reach = extent.map((half) => half + 0.25 * Math.max(...extent));
  const longest = Math.max(...reach);
  const axis = (n) => ({ visible: false, range: [-reach[n], reach[n]], autorange: false });
  return {
    domain, camera: structuredClone(camera), dragmode: "turntable", aspectmode: "manual",
    aspectratio: { x: (1.2 * reach[0]) / longest, y: (1.2 * reach[1]) / longest, z: (1.2 * reach[2]) / longest },
    xaxis: axis(0), yaxis: axis(1), zaxis: axis(2), bgcolor: "rgba(0,0,0,0)",
  };
}

function domains(count) {
  if (count === 1) return [{ x: [0, 1], y: [0, 1] }];
  return plot.clientWidth < NARROW
    ? [{ x: [0, 1], y: [0.51, 1] }, { x: [0, 1], y: [0, 0.49] }]
    : [{ x: [0, 0.5], y: [0, 1] }, { x: [0.5, 1], y: [0, 1] }];
}

// Keep the reader's zoom where scenes change their shape.
function fitCamera({ x, y }) {
  const width = plot.clientWidth * (x[1] - x[0]), height = plot.clientHeight * (y[1] - y[0]);
  const fitting = Math.max(1.6, (1.6 * height) / Math.max(1, width));
  for (const axis of ["x", "y", "z"]) camera.eye[axis] *= fitting / distance;
  distance = fitting;
}

function layoutFor(model) {
  const overlaid = isOverlaid();
  const places = domains(overlaid ? 1 : 2);
  fitCamera(places[0]);
  const text = themed("--text");
  const { limit, clipped } = DATA.cases[current].surfaces;
  const names = overlaid ? [`Reference (grey) and ${modelName(model)}`] : ["Reference", modelName(model)];
  const layout = {
    width: plot.clientWidth, height: plot.clientHeight,
    margin: { l: 0, r: 0, t: 4, b: byDistance() ? 64 : 4 }, paper_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { color: text, family: getComputedStyle(plot).fontFamily },
    scene: sceneLayout(places[0]),
    annotations: names.map((name, n) => ({
      text: name.replace(/&/g, "&amp;").replace(/</g, "&lt;"), showarrow: false, xref: "paper", yref: "paper",
      x: (places[n].x[0] + places[n].x[1]) / 2, y: places[n].y[1], xanchor: "center", yanchor: "top", font: { size: 14, color: text },
    })),
    coloraxis: {
      cmin: -limit, cmax: limit, colorscale: DIVERGING, showscale: byDistance(),
      colorbar: {
        orientation: "h", x: 0.5, y: 0, yanchor: "top", len: 0.8, lenmode: "fraction", thickness: 12, outlinewidth: 0, tickcolor: text,
        title: { text: "mm to the reference's surface: − inside, + outside", side: "bottom", font: { size: 12 } },
        ...(clipped ? { tickvals: [-limit, -limit / 2, 0, limit / 2, limit], ticktext: endsOpen(limit) } : {}),
      },
    },
  };
  if (!overlaid) layout.scene2 = sceneLayout(places[1]);
  return layout;
}

// Ticks of a colour bar that stands for larger distances at its ends.
const endsOpen = (limit) => [`≤ −${limit}`, `−${limit / 2}`, "0", `${limit / 2}`, `≥ ${limit}`];

async function drawSurfaces() {
  if (!isNear) return;
  const mine = ++turn;
  const model = Number(modelPicker.value);
  byId("surface-opacity-field").hidden = !isOverlaid();
  plot.classList.toggle("viewer-stacked", !isOverlaid() && plot.clientWidth < NARROW);
  try {
    const { made, missing } = await traces(model);
    if (mine !== turn) return;
    const scenes = isOverlaid() ? ["scene"] : ["scene", "scene2"];
    await window.Plotly.react(plot, [...made, ...scenes.flatMap(marks)], layoutFor(model),
      { displayModeBar: false, scrollZoom: false, doubleClick: false });
    listenToPlot();
    byId("surface-note").textContent = missing.join(" ");
    plot.setAttribute("aria-label", `Surfaces of ${DATA.cases[current].name}: reference and ${modelName(model)}`);
  } catch (error) {
    byId("surface-note").textContent = `The surfaces cannot be drawn: ${error.message}`;
  }
}

let isListening = false;
let isFollowing = false;

function listenToPlot() {
  if (isListening) return;
  isListening = true;
  const follow = (change) => {
    const moved = ["scene", "scene2"].find((scene) => change[`${scene}.camera`]);
    if (!moved || isFollowing) return;
    camera = structuredClone(change[`${moved}.camera`]);
    const other = moved === "scene" ? "scene2" : "scene";
    if (plot.layout[other] && !isOverlaid()) applyCamera([other]);
  };
  plot.on("plotly_relayouting", follow);
  plot.on("plotly_relayout", follow);
}

async function applyCamera(scenes) {
  isFollowing = true;
  const change = Object.fromEntries(scenes.map((scene) => [`${scene}.camera`, structuredClone(camera)]));
  try {
    await window.Plotly.relayout(plot, change);
  } finally {
    isFollowing = false;
  }
}

function turnBy(way) {
  const { x, y, z } = camera.eye;
  let radius = Math.hypot(x, y, z), side = Math.atan2(y, x), height = Math.asin(z / radius);
  const angle = Math.PI / 18, top = Math.PI / 2 - 0.05;
  if (way === "left") side -= angle;
  if (way === "right") side += angle;
  if (way === "up") height = Math.min(top, height + angle);
  if (way === "down") height = Math.max(-top, height - angle);
  if (way === "in") radius = Math.max(0.3 * distance, radius / 1.2);
  if (way === "out") radius = Math.min(4 * distance, radius * 1.2);
  camera.eye = { x: radius * Math.cos(height) * Math.cos(side), y: radius * Math.cos(height) * Math.sin(side), z: radius * Math.sin(height) };
  if (way === "reset") {
    camera = structuredClone(AHEAD);
    for (const axis of ["x", "y", "z"]) camera.eye[axis] *= distance;
  }
  applyCamera(isOverlaid() ? ["scene"] : ["scene", "scene2"]);
}

function showSurfaces() {
  const { models } = DATA.cases[current];
  modelPicker.replaceChildren(...models.map((n) => element("option", { value: n }, modelName(n))));
  modelPicker.value = String(models.includes(wantedModel) ? wantedModel : models[0]);
  drawSurfaces();
}

function buildLabels() {
  byId("surface-labels").replaceChildren(...DATA.labels.map((name, n) => labelToggle(name, n, hiddenSurfaces, drawSurfaces)));
}

function listenToSurfaces() {
  modelPicker.addEventListener("change", () => { wantedModel = Number(modelPicker.value); drawSurfaces(); });
  opacity.addEventListener("change", drawSurfaces);
  onChoice("surface-layout", drawSurfaces);
  onChoice("surface-colour", drawSurfaces);
  document.addEventListener("themechange", () => { buildLabels(); drawSurfaces(); });
  for (const button of document.querySelectorAll("#surface [data-turn]")) {
    button.addEventListener("click", () => turnBy(button.dataset.turn));
  }
  const ways = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", "+": "in", "-": "out", 0: "reset" };
  onKeys(plot, () => ways, turnBy);
  plot.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    turnBy(event.deltaY > 0 ? "out" : "in");
  }, { passive: false });
  let width = plot.clientWidth, waiting = 0;
  new ResizeObserver(() => {
    if (width === plot.clientWidth) return;
    width = plot.clientWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawSurfaces, 150);
  }).observe(plot);
  // WebGL is dear: nothing is drawn before the reader comes near.
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    isNear = true;
    drawSurfaces();
  }, { rootMargin: "400px" }).observe(plot);
}

buildLabels();
listenToSurfaces();
listeners.push(showSurfaces);
showCase(0);
