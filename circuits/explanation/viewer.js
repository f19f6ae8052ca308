// Draws an attribution graph into `root`; `given` comes from circuits/explanation/viewer.py. All that a
// user wrote (tokens, labels, names of supernodes) is set as text, never as markup.
(root, given) => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const DRAWN = new Set(["svg", "g", "path", "circle", "rect", "text", "title", "line"]);
  const BRANCHES = ["", "q", "k", "v"];
  const INTO = { "": "", q: "query", k: "key", v: "value" };
  const DASHES = { q: "6 3", k: "2 3" };
  const STEP = 20, WRAP = 6, PAD = 14, STRIP = 58, LEFT = 82; // pixels; WRAP in nodes per line
  const OVERVIEW = 100, ROWS = 25, NAMED = 6; // edges drawn, listed and written on at first
  const PALETTE = given.palette;

  const { file } = given;
  const tokens = file.metadata.prompt_tokens;
  const corrupt = given.corrupt_tokens;
  // a graph of circuit-tracer's own has no fields of ours in its file
  const nodes = file.nodes.map((row, index) => ({ row, index, ...(row.interp ?? given.rows[index]) }));
  const links = given.links.map(([s, t, weight, b, raw]) => ({
    source: nodes[s],
    target: nodes[t],
    weight,
    branch: BRANCHES[b],
    raw,
  }));
  const state = {
    pinned: new Set(), // ids of items
    over: null, // the item under the pointer, or focused
    subject: null, // id of the item whose details are shown
    focus: "logits", // id of the item that Tab comes to
    marked: null, // id of the item to be grouped with the next one
    found: "",
    branch: "all",
    merged: false,
    nodeFloor: 0,
    edgeFloor: 0,
    all: false, // list all edges of the subject
  };

  const make = (tag, attributes = {}, ...children) => {
    const one = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) one.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) one.setAttribute(name, value);
    }
    one.append(...children);
    return one;
  };
  const number = (x) => {
    if (typeof x !== "number" || !Number.isFinite(x)) return "–";
    const size = Math.abs(x);
    const text = size >= 5e-4 && size < 1e6 ? size.toFixed(3) : size === 0 ? "0.000" : size.toExponential(1);
    return (x < 0 ? "−" : "") + text;
  };
  const size = (x) => (Number.isFinite(x) ? Math.abs(x) : 0);
  const cut = (text, n) => ([...text].length > n ? [...text].slice(0, Math.max(1, n - 1)).join("") + "…" : text);
  const at = (pos) => (pos in tokens ? `“${tokens[pos]}” (${pos})` : "no token");
  const token = (pos) => (pos in tokens ? tokens[pos].trim() || JSON.stringify(tokens[pos]) : "bias");
  const depth = (layer) => (layer < 0 ? "embedding" : layer >= given.n_layers ? "logits" : `layer ${layer}`);
  const called = (item) => (item.label && item.label !== item.id ? `${item.id}: ${item.label}` : item.id);
  const id = (name) => `${root.id}-${name}`;

  // --- what is shown: nodes, or supernodes merged into one -------------------------------------

  let items, edges, itemOf;

  function arrange() {
    const groups = new Map();
    itemOf = new Map();
    items = [];
    for (const node of nodes) {
      const name = state.merged && node.supernode;
      if (name && groups.has(name)) {
        groups.get(name).members.push(node);
        itemOf.set(node, groups.get(name));
        continue;
      }
      const item = { ...node, members: [node] };
      if (name) groups.set(name, item);
      items.push(item);
      itemOf.set(node, item);
    }
    for (const [name, item] of groups) {
      const strongest = [...item.members].sort((a, b) => size(b.attribution) - size(a.attribution))[0];
      const sum = (key) => item.members.reduce((total, node) => total + (node[key] ?? 0), 0);
      Object.assign(item, {
        id: `supernode ${name}`,
        kind: "supernode",
        label: name,
        layer: strongest.layer,
        pos: strongest.pos,
        attribution: sum("attribution"),
        unshown: sum("unshown"),
        activation: null,
        corrupt_activation: null,
      });
    }
    const joined = new Map();
    for (const link of links) {
      const source = itemOf.get(link.source), target = itemOf.get(link.target);
      if (source === target) continue;
      const key = `${source.index} ${target.index} ${link.branch}`;
      const edge = joined.get(key);
      if (edge) edge.weight += link.weight;
      else joined.set(key, { source, target, weight: link.weight, branch: link.branch });
    }
    edges = [...joined.values()].sort((a, b) => size(b.weight) - size(a.weight));
    place();
  }

  const sublayer = (item) => (["head"].includes(item.kind) || /^a\d+\.rest/.test(item.id) ? 0 : 1);
  let rows, columns, width, height;

  function place() {
    const cells = new Map();
    for (const item of items) {
      const key = `${item.layer} ${item.pos}`;
      if (!cells.has(key)) cells.set(key, [[], []]);
      cells.get(key)[sublayer(item)].push(item);
    }
    const positions = items.some((item) => item.pos < 0) ? [-1] : [];
    positions.push(...tokens.keys());
    const lines = (list) => Math.ceil(list.length / WRAP);
    rows = new Map();
    columns = new Map();
    let x = 0;
    for (const pos of positions) {
      let most = 0;
      for (const [key, parts] of cells) {
        if (key.endsWith(` ${pos}`)) most = Math.max(most, ...parts.map((list) => Math.min(WRAP, list.length)));
      }
      const wide = Math.max(most * STEP + PAD, Math.min(96, [...token(pos)].length * 7 + 12), 40);
      columns.set(pos, { x, width: wide });
      x += wide;
    }
    const spare = (grid.clientWidth - LEFT - x) / columns.size;
    if (spare > 0) [...columns.values()].forEach((column, i) => { column.x += i * spare; column.width += spare; });
    width = x + Math.max(0, spare * columns.size);
    let y = 0;
    for (let layer = given.n_layers; layer >= -1; layer--) {
      const own = [...cells].filter(([key]) => key.startsWith(`${layer} `)).map(([, parts]) => parts);
      const attention = Math.max(0, ...own.map(([a]) => lines(a)));
      const mlp = Math.max(0, ...own.map(([, m]) => lines(m)));
      const high = attention + mlp ? (attention + mlp) * STEP + 8 : 9;
      rows.set(layer, { y, height: high, attention, empty: !own.length });
      y += high;
    }
    height = y;
    for (const [key, parts] of cells) {
      const [layer, pos] = key.split(" ").map(Number);
      const row = rows.get(layer), column = columns.get(pos);
      parts.forEach((list, part) => {
        list.forEach((item, i) => {
          const line = Math.floor(i / WRAP), inLine = Math.min(WRAP, list.length - line * WRAP);
          item.x = column.x + column.width / 2 + ((i % WRAP) - (inLine - 1) / 2) * STEP;
          item.y = row.y + row.height - 4 - STEP / 2 - (line + part * row.attention) * STEP;
        });
      });
    }
  }

  const largest = (list, key) => Math.max(1e-30, ...list.map((one) => size(one[key])));
  const floor = (share, top) => (share ? top * (share / 100) ** 3 : 0);
  const isShown = (item) => item.kind === "logits" || state.pinned.has(item.id) || size(item.attribution) >= state.nodeFloor;
  const branchShown = (edge) => state.branch === "all" || edge.branch === state.branch || (state.branch === "v" && !edge.branch);
  const edgeShown = (edge) =>
    size(edge.weight) >= state.edgeFloor && branchShown(edge) && isShown(edge.source) && isShown(edge.target);
  const matches = (item) => {
    const words = state.found.trim().toLowerCase();
    const texts = [item.id, item.label, item.supernode, token(item.pos), ...item.members.map((node) => node.label)];
    return words && texts.some((text) => (text || "").toLowerCase().includes(words));
  };
  const byId = (key) => items.find((item) => item.id === key) || null;

  // --- the frame --------------------------------------------------------------------------------

  const status = make("p", { class: "status", role: "status" });
  const say = (text) => { status.textContent = text; };
  const layers = make("svg", { class: "layers", "aria-hidden": "true" });
  const picture = make("svg", { class: "picture", role: "group", "aria-label": "Nodes: tokens across, layers upwards" });
  const strip = make("svg", { class: "tokens", "aria-hidden": "true" });
  const grid = make("div", { class: "grid", role: "group", tabindex: "0", "aria-label": "Grid of nodes, which scrolls", "aria-describedby": id("keys") },
    layers, picture, make("div", { class: "corner" }), strip);
  const panel = make("div", { class: "panel", role: "group", "aria-label": "The node and its edges" });
  const twin = make("details", { class: "twin", ontoggle: () => listNodes() });

  function slider(name, text, title, apply) {
    const input = make("input", {
      type: "range", id: id(name), min: 0, max: 100, value: 0, title,
      oninput: () => { apply(Number(input.value)); draw(); show(); },
    });
    return make("div", { class: "control" }, make("label", { for: id(name) }, text), input, make("output", { for: id(name) }));
  }

  function controls() {
    const search = make("input", {
      type: "search", id: id("search"), autocomplete: "off", placeholder: "name, label or token",
      oninput: (event) => { state.found = event.target.value; draw(); announceFound(); },
      onkeydown: (event) => {
        if (event.key !== "Enter") return;
        const first = items.filter((item) => isShown(item) && matches(item)).sort((a, b) => size(b.attribution) - size(a.attribution))[0];
        if (first) go(first);
      },
    });
    const here = BRANCHES.filter((b) => b && links.some((link) => link.branch === b));
    const choices = [["all", "all"], ["v", "value"], ["q", "query"], ["k", "key"]].map(([value, text]) =>
      make("label", {}, make("input", {
        type: "radio", name: id("branch"), value, checked: value === "all" ? "" : null,
        disabled: value === "all" || here.includes(value) ? null : "",
        onchange: () => { state.branch = value; draw(); show(); announce(); },
      }), text));
    return make("div", { class: "controls" },
      make("div", { class: "control" }, make("label", { for: id("search") }, "Search"), search),
      slider("nodes", "Hide nodes below", "Smallest |attribution| that is shown", (share) => {
        state.nodeFloor = floor(share, largest(nodes.filter((n) => n.kind !== "logits"), "attribution"));
      }),
      slider("edges", "Hide edges below", "Smallest |weight| that is shown", (share) => {
        state.edgeFloor = floor(share, largest(links, "weight"));
      }),
      make("fieldset", { title: here.some((b) => b !== "v") ? "" : "The graph has no edges into queries or keys" },
        make("legend", {}, "Edges into a head's"), ...choices),
      make("div", { class: "control" },
        make("label", {}, make("input", {
          type: "checkbox", id: id("merge"),
          onchange: (event) => { state.merged = event.target.checked; arranged(); announce(); },
        }), "Merge supernodes"),
        make("button", { type: "button", class: "save", onclick: save }, "Save as JSON")));
  }

  function keys() {
    return make("details", {}, make("summary", {}, "Keys and signs"),
      make("p", { id: id("keys") },
        "Arrow keys go from node to node, Enter pins one and draws its edges, L goes to its label, " +
        "G marks it and a second G on another node groups both in a supernode, Escape unpins all. " +
        "With a pointer, drag a node onto another to group them."),
      make("p", {},
        "Blue supports the target, red with a bar opposes it; area shows |attribution|, an edge's " +
        "width |weight|. Circles are heads, squares neurons or features, flat boxes embeddings and " +
        "logits, hollow marks what is left of a sublayer. Dashed edges enter a query, dotted ones a key."));
  }

  // --- drawing ----------------------------------------------------------------------------------

  const drawnNodes = make("g"), drawnEdges = make("g", { "aria-hidden": "true" }), bands = make("g", { "aria-hidden": "true" });
  const ghost = make("circle", { r: 9, class: "ghost", visibility: "hidden" });
  picture.append(bands, drawnEdges, drawnNodes, ghost);

  function shape(item, r) {
    if (item.kind === "head" || (item.kind === "rest" && !sublayer(item))) return make("circle", { r });
    if (item.kind === "bias") return make("path", { d: `M0,${-r}L${r},${r}L${-r},${r}Z` });
    const flat = item.kind === "embedding" || item.kind === "logits";
    const w = flat ? 1.3 * r : 0.9 * r, h = flat ? 0.7 * r : 0.9 * r;
    return make("rect", { x: -w, y: -h, width: 2 * w, height: 2 * h, rx: item.kind === "supernode" ? r / 2 : 1 });
  }

  function drawFrame() {
    for (const [svg, w, h] of [[picture, width, height], [layers, LEFT, height], [strip, width, STRIP]]) {
      svg.setAttribute("width", w);
      svg.setAttribute("height", h);
      svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
    }
    bands.replaceChildren();
    layers.replaceChildren();
    strip.replaceChildren();
    let odd = false;
    for (const [layer, row] of rows) {
      odd = !odd;
      if (odd) bands.append(make("rect", { class: "band", x: 0, y: row.y, width, height: row.height }));
      if (!row.empty) layers.append(make("text", { x: LEFT - 8, y: row.y + row.height / 2, "text-anchor": "end", "dominant-baseline": "central" }, depth(layer)));
    }
    for (const [pos, column] of columns) {
      const middle = column.x + column.width / 2;
      if (pos > 0) bands.append(make("line", { class: "rule", x1: column.x, x2: column.x, y1: 0, y2: height }));
      const fits = Math.floor((column.width - 4) / 7);
      const text = (y, value, kind) => make("text", { x: middle, y, "text-anchor": "middle", class: kind }, cut(value, fits));
      const other = pos >= 0 && corrupt[pos] !== undefined && corrupt[pos] !== tokens[pos] ? corrupt[pos].trim() || "–" : "";
      const mark = make("g", {}, make("title", {}, at(pos) + (other ? `; corrupt prompt: “${other}”` : "")), text(15, token(pos)));
      if (pos >= 0) mark.append(text(30, String(pos), "soft"));
      if (other) mark.append(text(46, other, "other"));
      strip.append(mark);
    }
  }

  function drawNodes() {
    const top = largest(items.filter((item) => item.kind !== "logits"), "attribution");
    const names = [...new Set(nodes.map((node) => node.supernode).filter(Boolean))];
    const held = drawnNodes.contains(document.activeElement);
    drawnNodes.replaceChildren();
    if (!items.some((item) => item.id === state.focus && isShown(item))) state.focus = (items.find(isShown) || {}).id;
    for (const item of items) {
      if (!isShown(item)) continue;
      const r = 3 + 6.5 * Math.sqrt(Math.min(1, size(item.attribution) / top));
      const sign = item.attribution > 0 ? "for" : item.attribution < 0 ? "against" : "none";
      const pinned = state.pinned.has(item.id), dim = state.found.trim() && !matches(item);
      const node = make("g", {
        class: ["node", sign, item.kind, pinned && "pinned", dim && "dim", state.marked === item.id && "marked"].filter(Boolean).join(" "),
        transform: `translate(${item.x},${item.y})`, "data-id": item.id,
        role: "button", tabindex: item.id === state.focus ? 0 : -1, "aria-pressed": String(pinned),
        "aria-label": `${called(item)}; ${at(item.pos)}, ${depth(item.layer)}; attribution ${number(item.attribution)}` +
          (item.supernode ? `; supernode ${item.supernode}` : ""),
      }, make("circle", { r: STEP / 2, class: "hit" }));
      if (item.supernode) {
        node.append(make("circle", { r: r + 3, class: "ring", stroke: PALETTE[names.indexOf(item.supernode) % PALETTE.length] }));
      }
      const mark = shape(item, r);
      mark.classList.add("mark");
      node.append(mark);
      if (sign === "against" && r > 4) node.append(make("line", { class: "bar", x1: -r / 2, x2: r / 2, y1: 0, y2: 0 }));
      node.append(make("title", {}, `${called(item)}\n${at(item.pos)}, ${depth(item.layer)}\nattribution ${number(item.attribution)}`));
      drawnNodes.append(node);
    }
    if (held) focusOn(state.focus);
  }

  function active() {
    const chosen = new Set(state.pinned);
    if (state.over) chosen.add(state.over.id);
    return chosen;
  }

  function drawEdges() {
    const chosen = active();
    const some = chosen.size > 0;
    const mine = edges.filter((edge) => edgeShown(edge) && (!some || chosen.has(edge.source.id) || chosen.has(edge.target.id)));
    const drawn = some ? mine : mine.slice(0, OVERVIEW);
    const top = largest(drawn, "weight");
    drawnEdges.replaceChildren();
    for (const edge of [...drawn].reverse()) {
      const { source: s, target: t } = edge, middle = (s.y + t.y) / 2;
      const path = make("path", {
        class: `edge ${edge.weight < 0 ? "against" : "for"}${some ? "" : " faint"}`,
        d: `M${s.x},${s.y}C${s.x},${middle} ${t.x},${middle} ${t.x},${t.y}`,
        "stroke-width": (0.7 + 4.3 * Math.sqrt(size(edge.weight) / top)).toFixed(2),
        "stroke-dasharray": DASHES[edge.branch],
      }, make("title", {}, `${s.id} to ${t.id}${edge.branch ? ` (${INTO[edge.branch]})` : ""}: ${number(edge.weight)}`));
      drawnEdges.append(path);
    }
    for (const edge of some ? drawn.slice(0, NAMED) : []) {
      const x = (edge.source.x + edge.target.x) / 2, y = (edge.source.y + edge.target.y) / 2;
      drawnEdges.append(make("text", { x, y, class: "weight", "text-anchor": "middle" }, number(edge.weight)));
    }
    const near = new Set(drawn.flatMap((edge) => [edge.source.id, edge.target.id]));
    for (const node of drawnNodes.children) {
      node.classList.toggle("far", some && !near.has(node.dataset.id) && !chosen.has(node.dataset.id));
    }
  }

  function draw() {
    for (const name of ["nodes", "edges"]) {
      const input = root.querySelector(`#${CSS.escape(id(name))}`);
      const list = name === "nodes" ? items : edges, test = name === "nodes" ? isShown : edgeShown;
      const text = `${number(name === "nodes" ? state.nodeFloor : state.edgeFloor)}: ${list.filter(test).length} of ${list.length} ${name}`;
      input.setAttribute("aria-valuetext", text);
      input.nextElementSibling.textContent = text;
    }
    drawNodes();
    drawEdges();
    listNodes();
  }

  function arranged() {
    arrange();
    for (const key of [...state.pinned]) if (!byId(key)) state.pinned.delete(key);
    state.over = state.over && byId(state.over.id);
    if (state.subject && !byId(state.subject)) state.subject = null;
    drawFrame();
    draw();
    show();
  }

  function announce() {
    const n = edges.filter(edgeShown).length;
    const drawn = n > OVERVIEW ? `The strongest ${OVERVIEW} of ${n} edges are drawn` : `All ${n} edges are drawn`;
    say(active().size ? "" : `${drawn}; point at a node, or pin it, to see its own.`);
  }

  function announceFound() {
    const n = items.filter((item) => isShown(item) && matches(item)).length;
    say(state.found.trim() ? `${n} ${n === 1 ? "node matches" : "nodes match"}; Enter goes to the strongest.` : "");
  }

  // --- the node in question -----------------------------------------------------------------------

  function show(force = true) {
    if (!force && panel.contains(document.activeElement)) return;
    const item = state.subject && byId(state.subject);
    if (!item) {
      panel.replaceChildren(make("p", { class: "soft" }, "Point at a node, or go to one with the keyboard, to see what it reads and what reads it."));
      return;
    }
    const facts = [
      ["at", `${at(item.pos)}, ${depth(item.layer)}`],
      [`attribution (${given.unit})`, number(item.attribution)],
      ["of it from nodes not shown", number(item.unshown)],
    ];
    if (item.activation !== null) {
      const other = item.corrupt_activation === null ? "" : `, corrupt prompt ${number(item.corrupt_activation)}`;
      facts.push(["activation", number(item.activation) + other]);
    }
    if (item.contexts) facts.push(["strongest contexts", item.contexts]);
    if (item.kind === "supernode") facts.push(["members", item.members.map((node) => node.id).join(", ")]);
    const list = make("dl");
    for (const [name, value] of facts) list.append(make("dt", {}, name), make("dd", {}, value));
    panel.replaceChildren(
      make("p", { class: "name" }, item.id), list, ...fields(item),
      make("div", { class: "buttons" },
        make("button", { type: "button", class: "pin", "aria-pressed": String(state.pinned.has(item.id)), onclick: () => pin(item) }, state.pinned.has(item.id) ? "Unpin" : "Pin"),
        make("button", { type: "button", class: "group", onclick: () => mark(item) }, state.marked && state.marked !== item.id ? `Group with ${state.marked}` : state.marked ? "Do not group" : "Group with …"),
        make("button", { type: "button", class: "leave", disabled: item.supernode ? null : "", onclick: () => leave(item) }, "Leave supernode"),
        make("button", { type: "button", class: "clear", disabled: state.pinned.size ? null : "", onclick: clear }, "Unpin all")),
      listEdges("Reads from", item, edges.filter((edge) => edge.target === item && edgeShown(edge)), "source"),
      listEdges("Is read by", item, edges.filter((edge) => edge.source === item && edgeShown(edge)), "target"));
  }

  function fields(item) {
    const merged = item.kind === "supernode";
    const name = make("input", { type: "text", id: id("supernode"), list: id("names"), value: item.supernode || "", autocomplete: "off",
      onchange: (event) => (merged ? rename(item, event.target.value) : join(item.members, event.target.value)) });
    const names = make("datalist", { id: id("names") });
    for (const one of new Set(nodes.map((node) => node.supernode).filter(Boolean))) names.append(make("option", { value: one }));
    const parts = [make("label", { for: id("supernode") }, "Supernode"), name, names];
    if (!merged) {
      parts.unshift(make("label", { for: id("label") }, "Label"), make("input", { type: "text", id: id("label"), value: item.label || "", autocomplete: "off",
        onchange: (event) => relabel(item, event.target.value) }));
    }
    return [make("div", { class: "fields" }, ...parts)];
  }

  function listEdges(title, item, list, end) {
    const table = make("table", {}, make("caption", {}, `${title} (${list.length})`),
      make("thead", {}, make("tr", {}, ...["node", "into", `weight`].map((text, i) => make("th", { scope: "col", class: i === 2 ? "number" : null }, text)))));
    const body = make("tbody");
    for (const edge of state.all ? list : list.slice(0, ROWS)) {
      const other = edge[end];
      body.append(make("tr", {},
        make("th", { scope: "row" }, make("button", { type: "button", class: "link", onclick: () => go(other) }, called(other)), make("span", { class: "soft" }, ` ${at(other.pos)}`)),
        make("td", {}, INTO[edge.branch]), make("td", { class: "number" }, number(edge.weight))));
    }
    table.append(body);
    if (!list.length) return make("p", { class: "soft" }, `${title}: no edge that is shown.`);
    const box = make("div", { class: "scroll" }, table);
    if (list.length > ROWS && !state.all) box.append(make("button", { type: "button", onclick: () => { state.all = true; show(); } }, `Show all ${list.length}`));
    return box;
  }

  function listNodes() {
    const shown = items.filter((item) => isShown(item) && (!state.found.trim() || matches(item))).sort((a, b) => size(b.attribution) - size(a.attribution));
    const text = `The ${shown.length} nodes as a table`;
    if (!twin.firstChild) twin.append(make("summary", {}, text), make("div", { class: "scroll", role: "group", tabindex: "0", "aria-label": "Table of nodes, which scrolls" }));
    twin.firstChild.textContent = text;
    if (!twin.open) return;
    const heads = ["node", "token", "layer", "label", "supernode", "edges in", "edges out", "attribution"];
    const table = make("table", {}, make("caption", {}, "Nodes that are shown, by |attribution|"), make("thead", {}, make("tr", {},
      ...heads.map((head, i) => make("th", { scope: "col", class: i > 4 ? "number" : null }, head)))));
    const body = make("tbody"), n = new Map();
    for (const edge of edges.filter(edgeShown)) {
      for (const [end, i] of [[edge.target, 0], [edge.source, 1]]) n.set(end, (n.get(end) || [0, 0]).map((c, k) => c + (k === i)));
    }
    for (const item of shown) {
      const [into, out] = n.get(item) || [0, 0];
      body.append(make("tr", {},
        make("th", { scope: "row" }, make("button", { type: "button", class: "link", onclick: () => go(item) }, item.id)),
        ...[at(item.pos), depth(item.layer), item.label || "", item.supernode || ""].map((value) => make("td", {}, value)),
        ...[into, out, number(item.attribution)].map((value) => make("td", { class: "number" }, String(value)))));
    }
    table.append(body);
    twin.lastChild.replaceChildren(table);
  }

  // --- what the user does -------------------------------------------------------------------------

  function focusOn(key) {
    const node = [...drawnNodes.children].find((one) => one.dataset.id === key);
    if (!node) return;
    for (const one of drawnNodes.children) one.setAttribute("tabindex", one === node ? 0 : -1);
    state.focus = key;
    node.focus({ preventScroll: true });
    reveal(byId(key));
  }

  function reveal(item) {
    const right = grid.clientWidth - LEFT, bottom = grid.clientHeight - STRIP, edge = 24;
    if (item.x - edge < grid.scrollLeft) grid.scrollLeft = item.x - edge;
    else if (item.x + edge > grid.scrollLeft + right) grid.scrollLeft = item.x + edge - right;
    if (item.y - edge < grid.scrollTop) grid.scrollTop = item.y - edge;
    else if (item.y + edge > grid.scrollTop + bottom) grid.scrollTop = item.y + edge - bottom;
  }

  function pin(item) {
    if (state.pinned.has(item.id)) state.pinned.delete(item.id);
    else state.pinned.add(item.id);
    state.subject = item.id;
    state.all = false;
    draw();
    show();
    say(`${item.id} is ${state.pinned.has(item.id) ? "pinned" : "no longer pinned"}.`);
  }

  function go(item) {
    state.pinned.add(item.id); // also where a threshold hides it
    state.subject = item.id;
    state.focus = item.id;
    state.all = false;
    draw();
    show();
    focusOn(item.id);
  }

  function mark(item) {
    if (state.marked && state.marked !== item.id) {
      const first = byId(state.marked);
      state.marked = null;
      if (first) return group(first, item);
    } else {
      state.marked = state.marked ? null : item.id;
      say(state.marked ? `${item.id} is marked; choose the node to group it with and press G, or its button.` : "Nothing is marked.");
    }
    draw();
    show();
  }

  function group(first, second) {
    const taken = new Set(nodes.map((node) => node.supernode).filter(Boolean));
    let name = second.supernode || first.supernode;
    if (!name) {
      const base = cut(second.label || first.label || "group", 40);
      name = base;
      for (let n = 2; taken.has(name); n++) name = `${base} ${n}`;
    }
    join([...first.members, ...second.members], name);
  }

  function join(members, name) {
    name = name.trim();
    for (const node of members) {
      node.supernode = name;
      if (node.row.interp) node.row.interp.supernode = name;
    }
    changed(name ? `${members.map((node) => node.id).join(", ")}: now in the supernode “${name}”.` : "Now in no supernode.", members[0]);
  }

  function leave(item) {
    join(item.members, "");
  }

  function rename(item, name) {
    join(item.members, name);
  }

  function relabel(item, label) {
    for (const node of item.members) {
      node.label = label;
      if (node.row.interp) node.row.interp.label = label;
      if (node.kind !== "logits" || !node.row.interp) node.row.clerp = label; // of a logit, they read its probability there
    }
    changed(`${item.id} is now labelled “${label}”.`, item.members[0]);
  }

  function changed(text, node) {
    arrange();
    state.subject = itemOf.get(node).id;
    const field = panel.contains(document.activeElement) ? document.activeElement.id : "";
    arranged();
    if (field) panel.querySelector(`#${CSS.escape(field)}`)?.focus();
    say(text);
  }

  function save() {
    const groups = new Map();
    for (const { supernode, row } of nodes) if (supernode) groups.set(supernode, [...(groups.get(supernode) || []), row.node_id]);
    const ids = items.filter((item) => state.pinned.has(item.id)).flatMap((item) => item.members.map((node) => node.row.node_id));
    const qParams = { ...file.qParams, pinnedIds: [...new Set([...ids, ...[...groups.values()].flat()])], supernodes: [...groups].map(([name, own]) => [name, ...own]) };
    const joined = new Map();
    for (const { source, target, weight, branch, raw } of links) {
      const key = `${source.index} ${target.index}`;
      const ends = { source: source.row.node_id, target: target.row.node_id };
      const link = joined.get(key) || (raw === undefined ? { ...ends, weight: 0, interp: {} } : { ...ends, weight: raw });
      if (raw === undefined) {
        link.weight += weight;
        link.interp[branch] = weight;
      }
      joined.set(key, link);
    }
    const text = JSON.stringify({ ...file, qParams, links: [...joined.values()] });
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: `${file.metadata.slug}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say(`Saved ${link.download}, with labels, supernodes and pins.`);
  }

  const itemAt = (event) => {
    const node = event.target.closest?.(".node");
    return node && drawnNodes.contains(node) ? byId(node.dataset.id) : null;
  };
  const point = (item, stay = false) => {
    state.over = item;
    if (item) state.subject = item.id;
    else if (state.pinned.size && !stay) state.subject = [...state.pinned].at(-1);
    drawEdges();
    if (!stay) show(false);
  };

  let drag = null;
  picture.addEventListener("pointerover", (event) => { if (!drag && itemAt(event) !== state.over) point(itemAt(event)); });
  picture.addEventListener("pointerleave", () => { if (!drag && state.over) point(null); });
  picture.addEventListener("focusin", (event) => { const item = itemAt(event); if (item) { state.focus = item.id; point(item); } });
  picture.addEventListener("focusout", (event) => { if (!drag) point(null, panel.contains(event.relatedTarget)); });
  // a finger on a node drags it, elsewhere it scrolls; touch-action does not hold inside an svg
  picture.addEventListener("touchstart", (event) => { if (itemAt(event)) event.preventDefault(); }, { passive: false });
  picture.addEventListener("pointerdown", (event) => {
    const item = itemAt(event);
    if (!item || event.button) return;
    drag = { item, x: event.clientX, y: event.clientY, moved: false };
    addEventListener("pointermove", move);
    addEventListener("pointerup", drop);
    addEventListener("pointercancel", drop);
  });
  const move = (event) => {
    if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 6) drag.moved = true;
    if (!drag.moved) return;
    const box = picture.getBoundingClientRect();
    ghost.setAttribute("cx", event.clientX - box.left);
    ghost.setAttribute("cy", event.clientY - box.top);
    ghost.setAttribute("visibility", "visible");
  };
  const drop = (event) => {
    const was = drag;
    drag = null;
    removeEventListener("pointermove", move);
    removeEventListener("pointerup", drop);
    removeEventListener("pointercancel", drop);
    ghost.setAttribute("visibility", "hidden");
    if (event.type === "pointercancel") return;
    if (!was.moved) {
      pin(byId(was.item.id));
      focusOn(was.item.id);
      return;
    }
    const under = document.elementFromPoint(event.clientX, event.clientY)?.closest(".node");
    const target = under && drawnNodes.contains(under) && byId(under.dataset.id);
    if (target && target.id !== was.item.id) group(was.item, target);
    else say("Dropped on no other node; nothing was grouped.");
  };

  picture.addEventListener("keydown", (event) => {
    const item = itemAt(event);
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const act = { Enter: () => pin(item), " ": () => pin(item), g: () => mark(item), l: () => { state.subject = item.id; show(); panel.querySelector("input")?.focus(); }, Escape: clear };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (steps[key]) {
      const next = nearest(item, ...steps[key]);
      if (next) focusOn(next.id);
    } else if (act[key]) act[key]();
    else return;
    event.preventDefault();
  });

  function nearest(item, dx, dy) {
    let best = null, least = Infinity;
    for (const other of items) {
      if (other === item || !isShown(other)) continue;
      const along = (other.x - item.x) * dx + (other.y - item.y) * dy;
      const across = Math.abs(dx ? other.y - item.y : other.x - item.x);
      const cost = along + (dx ? 4 : 1.2) * across;
      if (along > 1 && cost < least) [best, least] = [other, cost];
    }
    return best;
  }

  function clear() {
    state.pinned.clear();
    state.marked = null;
    draw();
    show();
    say("Nothing is pinned.");
  }

  // a notebook's own background lies behind the labels that stay in view
  let behind = root;
  while (behind && /^(transparent|rgba\(0, 0, 0, 0\))$/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
  if (behind) root.style.setProperty("--paper", getComputedStyle(behind).backgroundColor);

  arrange();
  for (const node of nodes) if (file.qParams.pinnedIds.includes(node.row.node_id)) state.pinned.add(node.id);
  root.replaceChildren(controls(), status, make("div", { class: "stage" }, grid, panel), twin, keys());
  arranged();
  let wide = grid.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(grid.clientWidth - wide) < 8) return;
    wide = grid.clientWidth;
    arranged();
  }).observe(grid);
  grid.scrollLeft = grid.scrollWidth; // the last token, where most nodes are
  announce();
}
