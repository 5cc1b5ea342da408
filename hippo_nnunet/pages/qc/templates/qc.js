(() => {
"use strict";
const KEY = "hippo-nnunet-qc:"; // and the digest of a scan: an answer holds for exactly what was seen
const ANSWERS = { p: "pass", f: "fail", u: "unsure" };
const scans = [...document.querySelectorAll(".scan")];
const filters = [...document.querySelectorAll("#filters button")];
const find = document.getElementById("find");
const answers = new Map(); // digest: {answer, time}
let filter = "all";
let current = null;

// Some browsers keep nothing for files, or are told not to.
function stored(action) {
  try {
    return action(window.localStorage);
  } catch (error) {
    const problem = document.getElementById("problem");
    problem.textContent = `This browser does not keep the answers (${error.name}): export them before you close the page.`;
    problem.hidden = false;
    return null;
  }
}

function load(scan) {
  const text = stored((storage) => storage.getItem(KEY + scan.dataset.digest));
  if (!text) return;
  const [answer, time] = text.split(" ");
  if (Object.values(ANSWERS).includes(answer)) answers.set(scan.dataset.digest, { answer, time });
}

function show(scan) {
  const found = answers.get(scan.dataset.digest);
  if (found) scan.dataset.answer = found.answer; else delete scan.dataset.answer;
  for (const button of scan.querySelectorAll("[data-answer]")) {
    button.setAttribute("aria-pressed", String(Boolean(found) && button.dataset.answer === found.answer));
  }
}

// The same answer again takes it back.
function judge(scan, answer) {
  const { digest } = scan.dataset, key = KEY + digest;
  if (answers.has(digest) && answers.get(digest).answer === answer) {
    answers.delete(digest);
    stored((storage) => storage.removeItem(key));
  } else {
    const time = new Date().toISOString();
    answers.set(digest, { answer, time });
    stored((storage) => storage.setItem(key, `${answer} ${time}`));
  }
  show(scan);
  count();
}

const answerOf = (scan) => (answers.has(scan.dataset.digest) ? answers.get(scan.dataset.digest).answer : "open");
const flagsOf = (scan) => JSON.parse(scan.dataset.flags);
const belongs = (scan, wanted) =>
  wanted === "all" || (wanted === "flagged" ? scan.dataset.flags !== "[]" : answerOf(scan) === wanted);

function count() {
  for (const button of filters) {
    button.querySelector("b").textContent = scans.filter((scan) => belongs(scan, button.dataset.filter)).length;
  }
}

// An answered scan stays where it is until the selection is made anew: nothing jumps under the eyes.
function select() {
  const text = find.value.trim().toLowerCase();
  for (const scan of scans) {
    scan.hidden = !(belongs(scan, filter) && scan.dataset.name.toLowerCase().includes(text));
  }
  for (const button of filters) button.setAttribute("aria-pressed", String(button.dataset.filter === filter));
  document.getElementById("none").hidden = !scans.length || scans.some((scan) => !scan.hidden);
  if (!current || current.hidden) mark(scans.find((scan) => !scan.hidden) || null);
}

function mark(scan) {
  if (current) current.removeAttribute("aria-current");
  current = scan;
  if (current) current.setAttribute("aria-current", "true");
}

function move(by) {
  const shown = scans.filter((scan) => !scan.hidden);
  const next = shown[shown.indexOf(current) + by];
  if (!next) return;
  mark(next);
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: "start", behavior: "instant" });
}

const quoted = (value) => `"${String(value).replace(/"/g, '""')}"`;

function table() {
  const rows = scans.map((scan) => {
    const { answer = "", time = "" } = answers.get(scan.dataset.digest) || {};
    return [scan.dataset.name, answer, time, scan.dataset.doubt, flagsOf(scan).join("; ")];
  });
  return [["scan", "answer", "answered", "doubt", "flags"], ...rows].map((row) => `${row.map(quoted).join(",")}\r\n`).join("");
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv;charset=utf-8" }));
  link.download = "qc.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// Pictures of scans far away are neither decoded nor laid out.
function draw(scan) {
  for (const template of scan.querySelectorAll("template")) template.replaceWith(template.content.cloneNode(true));
}
const watcher = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    if (!isIntersecting) continue;
    draw(target);
    watcher.unobserve(target);
  }
}, { rootMargin: "1500px 0px" });

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input")) return;
  const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (by) move(by);
  else if (event.key in ANSWERS && current && !event.repeat) judge(current, ANSWERS[event.key]);
  else if (event.key === "o" && !event.repeat) document.documentElement.classList.toggle("bare");
  else return;
  event.preventDefault();
});
document.addEventListener("click", (event) => {
  const scan = event.target.closest(".scan");
  if (!scan) return;
  mark(scan);
  const button = event.target.closest("[data-answer]:not(.scan)");
  if (button) judge(scan, button.dataset.answer);
  const figure = event.target.closest(".stage") && event.target.closest("figure");
  if (figure) figure.classList.toggle("large");
});
document.getElementById("filters").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  filter = button.dataset.filter;
  select();
});
find.addEventListener("input", select);
document.getElementById("export").addEventListener("click", download);
window.addEventListener("beforeprint", () => scans.filter((scan) => !scan.hidden).forEach(draw));
// Answers that another tab gives.
window.addEventListener("storage", () => { answers.clear(); scans.forEach(load); scans.forEach(show); count(); });

scans.forEach(load);
scans.forEach(show);
count();
select();
for (const scan of scans) watcher.observe(scan);
})();
