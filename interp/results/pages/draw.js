// Draws every figure in the colours of the reader's scheme, and again when that changes.
const templates = JSON.parse(document.getElementById("templates").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const template = () => templates[dark.matches ? "dark" : "light"];
const touch = matchMedia("(pointer: coarse)").matches;
const plots = [...document.querySelectorAll(".plot")];
for (const plot of plots) {
  if (!window.Plotly) {
    plot.style.height = "auto";
    plot.textContent = "Not drawn: this page needs the file plotly.min.js beside it.";
    continue;
  }
  const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
  layout.template = template();
  if (touch) layout.dragmode = false; // a finger scrolls
  Plotly.newPlot(plot, data, layout, { responsive: true, displaylogo: false, displayModeBar: touch ? false : undefined });
}
if (window.Plotly) {
  dark.addEventListener("change", () => plots.forEach((plot) => Plotly.relayout(plot, { template: template() })));
}
