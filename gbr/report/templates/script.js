"use strict";
(() => {
  const data = JSON.parse(document.getElementById("graph-data").textContent);
  const byId = (id) => document.getElementById(id);

  // Values in [0, 1]: base64 of little-endian uint16.
  function unpacked(text) {
    const bytes = atob(text);
    return Array.from({ length: bytes.length / 2 }, (_, at) =>
      (bytes.charCodeAt(2 * at) + 256 * bytes.charCodeAt(2 * at + 1)) / 65535);
  }

  function draw(parent, kind, attributes, title) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (title) draw(node, "title", {}).textContent = title;
    parent.append(node);
    return node;
  }

  const percent = (share) => `${(100 * share).toFixed(2)}%`;

  function ticks(parent, side, places) {
    parent.replaceChildren(...places.map(([share, label]) => {
      const mark = document.createElement("span");
      mark.style[side] = percent(share);
      mark.textContent = label;
      return mark;
    }));
  }

  function first(predicted, count) {
    const order = predicted.map((value, at) => [value, at]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    return new Set(order.slice(0, count).map((pair) => pair[1]));
  }

  function dots(area, xs, ys, marked, titles) {
    const small = xs.length > 400 ? 1.6 : xs.length > 150 ? 2.2 : 3;
    const put = (at) => draw(area, "circle", {
      class: marked.has(at) ? "dot first" : "dot model", r: marked.has(at) ? 4.5 : small,
      cx: percent(xs[at]), cy: percent(1 - ys[at]), "fill-opacity": marked.has(at) ? 1 : 0.75,
    }, titles && titles(at));
    xs.forEach((_, at) => { if (!marked.has(at)) put(at); });
    marked.forEach(put);
  }

  const edges = (area) => {
    draw(area, "line", { class: "base", x1: 0, x2: 0, y1: 0, y2: "100%" });
    draw(area, "line", { class: "base", x1: 0, x2: "100%", y1: "100%", y2: "100%" });
  };

  function jumps(area, graph) {
    for (const jump of graph.jumps) {
      const x = percent(jump.row / Math.max(1, graph.n - 1));
      draw(area, "line", { class: "jump", x1: x, x2: x, y1: 0, y2: "100%" }, `jump at row ${jump.row}`);
    }
  }

  function factors(slowest) {
    for (const step of [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]) {
      const count = Math.floor((slowest - 1) / step + 1e-9);
      if (count <= 5) return Array.from({ length: count + 1 }, (_, at) => 1 + at * step);
    }
    for (const step of [2, 4, 8, 16, 32, 64, 256, 1024, 65536]) {
      const count = Math.floor(Math.log(slowest) / Math.log(step) + 1e-9);
      if (count <= 5) return Array.from({ length: count + 1 }, (_, power) => step ** power);
    }
    return [1];
  }

  function show(id) {
    const graph = data.graphs[id];
    if (!graph) return;
    const predicted = unpacked(graph.predicted), measured = unpacked(graph.measured);
    const row = unpacked(graph.row), over = unpacked(graph.over);
    const marked = first(predicted, 5), last = Math.max(1, graph.n - 1);
    const place = (share) => (1 + share * last).toLocaleString("en", { maximumFractionDigits: 1 });
    const title = (at) => `row ${Math.round(row[at] * last)}: predicted place ${place(predicted[at])}, measured ` +
      `${place(measured[at])}, ${graph.slowest ** over[at] < 10 ? (graph.slowest ** over[at]).toFixed(3) : (graph.slowest ** over[at]).toFixed(1)}× the fastest`;
    const ends = [[0, "1"], [0.5, Math.round(1 + last / 2).toLocaleString("en")], [1, graph.n.toLocaleString("en")]];

    const ranks = byId("ranks");
    ranks.replaceChildren();
    draw(ranks, "line", { class: "grid", x1: 0, x2: "100%", y1: "100%", y2: 0 });
    edges(ranks);
    dots(ranks, predicted, measured, marked, title);
    ticks(byId("ranks-x"), "left", ends);
    ticks(byId("ranks-y"), "top", ends.map(([share, label]) => [1 - share, label]));
    byId("ranks-frame").setAttribute("aria-label",
      `Measured against predicted place of ${graph.n} configurations, Kendall tau ${graph.tau}`);

    const runs = byId("runs"), steps = factors(graph.slowest), height = Math.log(graph.slowest) || 1;
    runs.replaceChildren();
    for (const step of steps) {
      const y = percent(1 - Math.log(step) / height);
      draw(runs, "line", { class: "grid", x1: 0, x2: "100%", y1: y, y2: y });
    }
    edges(runs);
    jumps(runs, graph);
    dots(runs, row, over, marked, title);
    ticks(byId("runs-x"), "left", [[0, "0"], [0.5, Math.round(last / 2).toLocaleString("en")], [1, last.toLocaleString("en")]]);
    ticks(byId("runs-y"), "top", steps.map((step) =>
      [1 - Math.log(step) / height, `${step >= 10 ? step.toFixed(0) : String(Math.round(step * 1000) / 1000)}×`]));

    byId("facts").replaceChildren(...graph.facts.map(([name, value]) => {
      const pair = document.createElement("div"), term = document.createElement("dt"), told = document.createElement("dd");
      term.textContent = name;
      told.textContent = value;
      pair.append(term, told);
      return pair;
    }));
    byId("shown").textContent = (graph.shown < graph.n
      ? `A random ${graph.shown.toLocaleString("en")} of ${graph.n.toLocaleString("en")} configurations are drawn, the first five always. ` : "") +
      (graph.jumps.length ? "Dashed: where the runtimes jump as a whole." : "");
    byId("choose").value = id;
    document.querySelectorAll(".pick").forEach((mark) => mark.classList.toggle("on", mark.dataset.graph === id));
  }

  data.suspects.forEach((graph, number) => {
    const area = document.querySelector(`[data-suspect="${number}"]`);
    edges(area);
    jumps(area, graph);
    dots(area, unpacked(graph.row), unpacked(graph.over), new Set());
  });

  byId("choose").addEventListener("change", (event) => show(event.target.value));
  document.addEventListener("click", (event) => {
    const chosen = event.target.closest("[data-graph]");
    if (!chosen) return;
    show(chosen.dataset.graph);
    if (!chosen.closest("a")) byId("one").scrollIntoView();
  });
  const middle = byId("choose").options[Math.floor((data.first - 1) / 2)];
  if (middle) show(middle.value);
})();
