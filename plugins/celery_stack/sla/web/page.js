"use strict";
// The theme is the one chosen in Airflow's UI, which keeps it in the storage of this origin.
function applyTheme() {
  let theme = null;
  try {
    theme = localStorage.getItem("theme");
  } catch {
    // Storage may be closed to us: then the browser's own preference holds.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

// The UI's frame may not navigate the window (its sandbox lacks allow-top-navigation), but a link
// that belongs to the window's own document may.
function openInTopWindow(event) {
  const link = event.target.closest("a[data-top]");
  if (!link || window.parent === window) return;
  try {
    const twin = window.parent.document.createElement("a");
    twin.href = link.href;
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button === 1) {
      twin.target = "_blank";
      twin.rel = "noopener";
    }
    twin.click();
    event.preventDefault();
  } catch {
    // Framed by another origin: the link does what it can.
  }
}

applyTheme();
addEventListener("storage", applyTheme);
addEventListener("click", openInTopWindow);
addEventListener("auxclick", (event) => event.button === 1 && openInTopWindow(event));
