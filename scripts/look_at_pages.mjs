// Opens each page at two widths in both schemes; see look_at_pages.py.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import axe from "axe-core";
import puppeteer from "puppeteer-core";

const [runs, executablePath] = process.argv.slice(2);
const WIDTHS = [390, 1280];
const SCHEMES = ["light", "dark"];
const findings = [];

async function look(browser, kind, width, scheme) {
  const page = await browser.newPage();
  const found = (text) => findings.push(`${kind}, ${width} px, ${scheme}: ${text}`);
  page.on("pageerror", (error) => found(`script error: ${error.message}`));
  page.on("request", (request) => /^https?:/.test(request.url()) && found(`asks for ${request.url()}`));
  await page.setViewport({ width, height: 900, isMobile: width < 500, hasTouch: width < 500 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.goto(pathToFileURL(join(runs, kind, "index.html")).href, { waitUntil: "load" });
  const facts = await page.evaluate(() => ({
    wide: document.documentElement.scrollWidth, // innerWidth grows with it on a phone
    blank: [...document.querySelectorAll(".plot, .interp-graph")].filter((plot) => !plot.querySelector(".main-svg, .node")).length,
  }));
  if (facts.wide > width) found(`the page is ${facts.wide} px wide`);
  if (facts.blank) found(`${facts.blank} figures are not drawn`);
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => axe.run());
  for (const one of violations) {
    const text = `${one.impact}: ${one.id} (${one.nodes.length}): ${one.help}; ${one.nodes[0].target}`;
    if (["serious", "critical"].includes(one.impact)) found(text);
    else console.log(`note: ${kind}, ${width} px, ${scheme}: ${text}`);
  }
  await page.screenshot({ path: join(runs, kind, `${width}-${scheme}.png`), fullPage: true });
  await page.close();
}

const browser = await puppeteer.launch({ executablePath, args: ["--no-sandbox"] });
for (const kind of readdirSync(runs)) {
  for (const width of WIDTHS) for (const scheme of SCHEMES) await look(browser, kind, width, scheme);
}
await browser.close();
console.log(findings.join("\n") || "every page passes");
process.exit(findings.length ? 1 : 0);
