// The button between light and dark; pages hear of every change by "themechange" on the document.
const ROOT = document.documentElement;
const SYSTEM = window.matchMedia("(prefers-color-scheme: dark)");
document.getElementById("theme").addEventListener("click", () => {
  const dark = ROOT.dataset.theme ? ROOT.dataset.theme === "dark" : SYSTEM.matches;
  ROOT.dataset.theme = dark ? "light" : "dark";
  document.dispatchEvent(new Event("themechange"));
});
SYSTEM.addEventListener("change", () => {
  if (!ROOT.dataset.theme) document.dispatchEvent(new Event("themechange"));
});
