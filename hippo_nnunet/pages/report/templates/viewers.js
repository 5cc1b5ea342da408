// What both viewers share: voxels and meshes unpacked, colours of the page, the case that is shown.

const byId = (id) => document.getElementById(id);
const TOO_OLD = "This browser is too old to unpack the images: it lacks DecompressionStream " +
  "(Chrome 80, Safari 16.4, Firefox 113 or later have it).";

function element(tag, attributes = {}, ...children) {
  const namespace = ["svg", "line", "rect"].includes(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const made = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

async function unpacked(text, Type) {
  if (typeof DecompressionStream === "undefined") throw new Error(TOO_OLD);
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Type(await new Response(stream).arrayBuffer());
}

function rgb(colour) {
  const context = element("canvas").getContext("2d");
  context.fillStyle = colour;
  const found = context.fillStyle.match(/^#(..)(..)(..)$/);
  return found ? found.slice(1).map((part) => parseInt(part, 16)) : [128, 128, 128];
}

const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const modelColour = (n) => themed(`--series-${(n % DATA.palette.models) + 1}`);
const labelColour = (n) => themed(`--label-${(n % DATA.palette.labels) + 1}`);

// Lighten what could not be seen on the black around an image.
function onBlack(colour) {
  const parts = rgb(colour);
  const luminance = (0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]) / 255;
  const share = Math.max(0, 0.62 - luminance);
  return `rgb(${parts.map((part) => Math.round(part + share * (255 - part))).join(",")})`;
}

const modelName = (position) => DATA.models[position].name;
const pickers = [byId("slices-case"), byId("surface-case")];
const listeners = [];
let current = 0;

function showCase(position) {
  current = position;
  for (const picker of pickers) picker.value = String(position);
  for (const name of ["slices", "surface"]) {
    const { reason, notes } = DATA.cases[current];
    const sentences = [`Why this case: ${reason}.`, ...notes.map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`)];
    byId(`${name}-reason`).textContent = sentences.join(" ");
  }
  for (const listener of listeners) listener();
}

for (const picker of pickers) picker.addEventListener("change", () => showCase(Number(picker.value)));

function chosen(name) {
  return Number(document.querySelector(`input[name="${name}"]:checked`).value);
}

function onChoice(name, listener) {
  for (const input of document.querySelectorAll(`input[name="${name}"]`)) input.addEventListener("change", listener);
}

// The longest scale bar, in mm, that fits into a length.
const barLength = (mm) => [100, 50, 20, 10, 5, 2, 1].find((length) => length <= mm) || 1;

// Call `act` with what a key without modifiers stands for.
function onKeys(target, meanings, act) {
  target.addEventListener("keydown", (event) => {
    const found = meanings();
    if (!(event.key in found) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    act(found[event.key]);
  });
}

// A checkbox with a name that may be broken after its underscores.
function toggle(text, checked, change, ...marks) {
  const box = element("input", { type: "checkbox" });
  box.checked = checked;
  box.addEventListener("change", () => change(box.checked));
  const parts = text.split(/(?<=_)/).flatMap((part) => [part, element("wbr")]);
  return element("label", { class: "viewer-check" }, box, ...marks, element("span", {}, ...parts));
}

function labelToggle(name, n, hidden, redraw) {
  const dot = element("i", { class: "viewer-dot", style: `background:${labelColour(n)}` });
  return toggle(name, !hidden.has(n), (on) => { if (on) hidden.delete(n); else hidden.add(n); redraw(); }, dot);
}
