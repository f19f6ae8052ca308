// Uses every control of the viewer, as a browser's events do; what fails is written into the page.
(async () => {
  const faults = window.faults;
  const check = (ok, what) => { if (!ok) faults.push(what); };
  const root = document.querySelector(".interp-graph");
  const data = JSON.parse(document.getElementById(`${root.id}-data`).textContent);
  const rows = data.file.nodes.map((node) => node.interp);
  const links = data.links.map(([s, t, weight, b]) => ({ source: rows[s].id, target: rows[t].id, weight, branch: ["", "q", "k", "v"][b] }));
  const all = (selector) => [...root.querySelectorAll(selector)];
  const one = (selector) => root.querySelector(selector);
  const node = (id) => all(".node").find((n) => n.dataset.id === id);
  const field = (name) => one(`#${root.id}-${name}`);
  const status = () => one(".status").textContent;
  const place = (n) => { const box = n.querySelector(".hit").getBoundingClientRect(); return { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 }; };
  const pointer = (type, target, at = {}) => target.dispatchEvent(new PointerEvent(type, { bubbles: true, cancelable: true, button: 0, pointerId: 1, ...at }));
  const click = (n) => { const at = place(n); pointer("pointerdown", n.querySelector(".hit"), at); pointer("pointerup", window, at); };
  const hover = (n) => pointer("pointerover", n.querySelector(".hit"));
  const leave = () => pointer("pointerleave", one(".picture"));
  const key = (name) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
  const put = (input, value, type) => { input.value = value; input.dispatchEvent(new Event(type, { bubbles: true })); };
  const of = (id) => links.filter((link) => link.source === id || link.target === id);
  const drawn = () => all(".edge").length;
  const listed = () => all(".panel tbody tr").length;

  // what is there at first
  check(all(".node").length === rows.length, "a mark for every node");
  check(drawn() === Math.min(100, links.length), "the strongest edges at first");
  check(all('.node[tabindex="0"]').length === 1, "one node in the order of Tab");
  check(node("a0.h1@2").getAttribute("aria-label").includes("attribution 2.500"), "a name for screen readers");
  check(node("m1.n7@2").classList.contains("against") && node("m0.n5@2").classList.contains("for"), "classes by sign");
  check(one(".layers").textContent.includes("layer 1") && one(".tokens").textContent.includes("capital"), "rows and columns are named");
  check(one(".tokens").textContent.includes("river"), "the corrupt prompt's token");

  // pointing at a node, and pinning it
  hover(node("m0.n5@2"));
  check(drawn() === of("m0.n5@2").length, "the edges of the node under the pointer");
  check(one(".panel .name").textContent === "m0.n5@2" && listed() === of("m0.n5@2").length, "its edges are listed");
  check(one(".panel").textContent.includes("1.200") && one(".panel").textContent.includes("−0.300"), "with their weights");
  leave();
  check(drawn() === Math.min(100, links.length), "all edges again");
  click(node("a0.h1@2"));
  check(node("a0.h1@2").getAttribute("aria-pressed") === "true" && drawn() === of("a0.h1@2").length, "a pinned node keeps its edges");
  check(status() === "a0.h1@2 is pinned.", "pinning is announced");

  // edges by what they enter
  const radio = (value) => { const input = one(`input[value="${value}"]`); input.checked = true; input.dispatchEvent(new Event("change")); };
  radio("k");
  check(drawn() === 1 && one(".edge title").textContent.includes("(key): 0.500"), "query-key view");
  check(listed() === 1, "query-key view in the list");
  radio("v");
  check(drawn() === of("a0.h1@2").filter((link) => link.branch !== "k").length, "value view");
  check(one('input[value="q"]').disabled, "no edge enters a query here");
  radio("all");
  one(".panel .pin").click();
  check(!node("a0.h1@2").classList.contains("pinned"), "unpinned by its button");
  leave();

  // thresholds
  field("nodes").focus();
  const top = Math.max(...rows.filter((row) => row.kind !== "logits").map((row) => Math.abs(row.attribution)));
  put(field("nodes"), 60, "input");
  const above = rows.filter((row) => row.kind === "logits" || Math.abs(row.attribution) >= top * 0.216);
  check(all(".node").length === above.length, "nodes above the threshold");
  check(field("nodes").getAttribute("aria-valuetext").endsWith(`: ${above.length} of ${rows.length} nodes`), "the threshold in words");
  put(field("nodes"), 0, "input");
  put(field("edges"), 80, "input");
  const floor = 0.512 * Math.max(...links.map((link) => Math.abs(link.weight)));
  check(drawn() === links.filter((link) => Math.abs(link.weight) >= floor).length, "edges above the threshold");
  put(field("edges"), 0, "input");

  // search
  put(field("search"), "capital", "input");
  const hits = rows.filter((row) => row.pos === 1).length;
  check(all(".node:not(.dim)").length === hits && status().startsWith(`${hits} node`), "search by token");
  field("search").focus();
  key("Enter");
  check(document.activeElement === node("embedding@1") && node("embedding@1").classList.contains("pinned"), "Enter goes to the strongest match");
  put(field("search"), "M0.N5", "input");
  check(all(".node:not(.dim)").length === 1, "search by name");
  put(field("search"), "", "input");

  // keyboard
  node("embedding@1").focus();
  key("Escape");
  check(!all(".pinned").length, "Escape unpins");
  key("ArrowRight");
  check(document.activeElement.dataset.id === "embedding@2", "the node to the right");
  key("ArrowUp");
  check(document.activeElement.dataset.id === "a0.h1@2" || document.activeElement.dataset.id === "a0.rest@2", "the node above");
  check(all('.node[tabindex="0"]').length === 1 && document.activeElement.getAttribute("tabindex") === "0", "Tab comes back to it");
  node("m0.n5@2").focus();
  key("Enter");
  check(node("m0.n5@2").classList.contains("pinned") && document.activeElement === node("m0.n5@2"), "Enter pins and stays");
  key("l");
  check(document.activeElement === field("label"), "L goes to the label");

  // labels
  put(field("label"), "capitals <\/script><b>", "change");
  check(node("m0.n5@2").getAttribute("aria-label").includes("capitals <\/script><b>"), "a new label");
  check(!root.querySelector("b"), "a label is text");
  put(field("search"), "capitals", "input");
  check(all(".node:not(.dim)").length === 1, "search by label");
  put(field("search"), "", "input");

  // supernodes: by dragging, by keyboard, by name
  const a = node("a0.rest@2"), b = node("m1.n7@2");
  b.scrollIntoView({ block: "center" });
  pointer("pointerdown", a.querySelector(".hit"), place(a));
  pointer("pointermove", window, { clientX: place(a).clientX + 20, clientY: place(a).clientY + 20 });
  check(one(".ghost").getAttribute("visibility") === "visible", "something is dragged");
  pointer("pointerup", window, place(node("m1.n7@2")));
  check(all(".ring").length === 2 && status().includes("now in the supernode “group”"), "dropped on a node: a supernode");
  node("embedding@0").focus();
  key("g");
  check(status().startsWith("embedding@0 is marked"), "marked by G");
  node("embedding@1").focus();
  key("g");
  check(all(".ring").length === 4 && field("supernode").value === "group 2", "grouped by G");
  put(field("supernode"), "who", "change");
  check(one(".panel .name").textContent === "embedding@1" && field("supernode").value === "who", "one of them is moved by name");
  node("embedding@0").focus();
  put(field("supernode"), "who", "change");
  node("a0.rest@2").focus();
  one(".panel .leave").click();
  check(all(".ring").length === 3, "one of them left");
  one(".panel .group").click();
  node("m1.n7@2").focus();
  one(".panel .group").click();
  check(all(".ring").length === 4 && field("supernode").value === "group", "grouped by buttons");

  // merged
  const merge = field("merge");
  merge.click();
  check(all(".node").length === rows.length - 2, "a mark per supernode");
  hover(node("supernode who"));
  check(one(".panel").textContent.includes("embedding@0, embedding@1") && one(".panel").textContent.includes("3.000"), "members, and their sum");
  leave();
  merge.click();
  check(all(".node").length === rows.length, "and taken apart");

  // the table
  one(".twin").open = true;
  await new Promise((done) => setTimeout(done, 50));
  check(all(".twin tbody tr").length === rows.length, "every node in the table");
  all(".twin tbody button").find((button) => button.textContent === "embedding@2").click();
  check(document.activeElement === node("embedding@2"), "the table leads to the node");
  all(".panel .link")[0]?.click();
  one(".panel .clear").click();
  check(!all(".pinned").length && one(".panel .clear").disabled, "all unpinned by a button");

  // saved
  let blob, name;
  URL.createObjectURL = (given) => { blob = given; return "blob:none"; };
  HTMLAnchorElement.prototype.click = function () { name = this.download; };
  one(".save").click();
  check(name === `${data.file.metadata.slug}.json`, "the file's name");
  const saved = await blob.text();

  // the second one on the page has ids of its own
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  check(new Set(ids).size === ids.length, "ids stand once");
  check(document.querySelectorAll(".interp-graph").length === 2 && document.querySelectorAll(".picture").length === 2, "two on a page");
  const out = document.createElement("pre");
  out.id = "result";
  out.textContent = JSON.stringify({ faults, saved });
  document.body.append(out);
})().catch((error) => {
  document.body.append(Object.assign(document.createElement("pre"), { id: "result", textContent: JSON.stringify({ faults: [...window.faults, `${error.stack}`] }) }));
});
