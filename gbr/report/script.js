"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const percent = (share) => `${(100 * share).toFixed(2)}%`;
  const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits });

  // Values in [0, 1]: base64 of little-endian uint16.
  function unpack(text) {
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

  const line = (area, kind, x1, x2, y1, y2, title) => draw(area, "line",
    { class: kind, x1: percent(x1), x2: percent(x2), y1: percent(y1), y2: percent(y2) }, title);

  function dots(area, xs, ys, marked = new Set(), title = () => "") {
    line(area, "base", 0, 0, 0, 1);
    line(area, "base", 0, 1, 1, 1);
    const small = xs.length > 400 ? 1.6 : xs.length > 150 ? 2.2 : 3;
    const put = (at) => draw(area, "circle", {
      class: marked.has(at) ? "dot first" : "dot model", r: marked.has(at) ? 4.5 : small,
      cx: percent(xs[at]), cy: percent(1 - ys[at]), "fill-opacity": marked.has(at) ? 1 : 0.75,
    }, title(at));
    xs.forEach((_, at) => { if (!marked.has(at)) put(at); });
    marked.forEach(put);
  }

  function jumps(area, graph) {
    for (const row of graph.jumps) {
      const x = row / Math.max(1, graph.n - 1);
      line(area, "jump", x, x, 0, 1, `jump at row ${row}`);
    }
  }

  function ticks(parent, side, positions) {
    parent.replaceChildren(...positions.map(([share, label]) => {
      const mark = document.createElement("span");
      mark.style[side] = percent(share);
      mark.textContent = label;
      return mark;
    }));
  }

  function show(id) {
    const choose = byId("choose");
    choose.value = id;
    const template = document.querySelectorAll("template")[choose.selectedIndex];
    const graph = JSON.parse(template.dataset.plot);
    byId("facts").replaceChildren(template.content.cloneNode(true));
    const [predicted, measured, row, over] = ["predicted", "measured", "row", "over"].map((name) => unpack(graph[name]));
    const order = predicted.map((_, at) => at).sort((a, b) => predicted[a] - predicted[b] || a - b);
    const first = new Set(order.slice(0, 5)), last = Math.max(1, graph.n - 1);
    const rank = (share) => number(1 + share * last, 1);
    const title = (at) => {
      const slower = graph.slowest ** over[at];
      return `row ${Math.round(row[at] * last)}: predicted rank ${rank(predicted[at])}, ` +
        `measured rank ${rank(measured[at])}, ${slower.toFixed(slower < 10 ? 3 : 1)}× the fastest`;
    };

    const ranks = byId("ranks"), ends = [[0, "1"], [0.5, number(1 + last / 2)], [1, number(graph.n)]];
    ranks.replaceChildren();
    line(ranks, "grid", 0, 1, 1, 0);
    dots(ranks, predicted, measured, first, title);
    ticks(byId("ranks-x"), "left", ends);
    ticks(byId("ranks-y"), "top", ends.map(([share, label]) => [1 - share, label]));

    const runs = byId("runs"), height = Math.log(graph.slowest) || 1;
    const steps = graph.ticks.map((factor) => [1 - Math.log(factor) / height, `${number(factor, 4)}×`]);
    runs.replaceChildren();
    steps.forEach(([y]) => line(runs, "grid", 0, 1, y, y));
    jumps(runs, graph);
    dots(runs, row, over, first, title);
    ticks(byId("runs-x"), "left", [[0, "0"], [0.5, number(last / 2)], [1, number(last)]]);
    ticks(byId("runs-y"), "top", steps);

    byId("shown").textContent = (graph.shown < graph.n
      ? `${number(graph.shown)} of ${number(graph.n)} configurations are drawn: the first five, and a random sample. ` : "") +
      (graph.jumps.length ? "Dashed lines: jumps in the runtimes." : "");
    document.querySelectorAll(".pick").forEach((mark) => mark.classList.toggle("on", mark.dataset.graph === id));
  }

  for (const area of document.querySelectorAll("[data-suspect]")) {
    const graph = JSON.parse(area.dataset.suspect);
    jumps(area, graph);
    dots(area, unpack(graph.row), unpack(graph.over));
  }

  byId("choose").addEventListener("change", (event) => show(event.target.value));
  document.addEventListener("click", (event) => {
    const chosen = event.target.closest("[data-graph]");
    if (!chosen) return;
    show(chosen.dataset.graph);
    if (!chosen.closest("a")) byId("one").scrollIntoView();
  });
  const first = document.querySelectorAll("#choose optgroup:first-child option");
  if (first.length) show(first[Math.floor((first.length - 1) / 2)].value);
})();
