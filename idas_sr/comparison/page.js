"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const asked = data.comparisons;
  const place = `idas-sr votes ${data.page}`;
  const state = { votes: [], rater: "", revealed: false };
  let kept = true;
  let since = performance.now();

  // ---- what is kept ----

  function load() {
    try {
      const old = JSON.parse(localStorage.getItem(place) || "null");
      if (old && Array.isArray(old.votes)) Object.assign(state, old);
    } catch { kept = false; }
  }

  function keep() {
    try { localStorage.setItem(place, JSON.stringify(state)); } catch { kept = false; }
  }

  function say(words) { $("said").textContent = words; }

  function trouble(words) {
    $("trouble").textContent = words;
    $("trouble").hidden = !words;
    if (words) say(words);
  }

  function make(tag, content = "", attributes = {}) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...[content].flat());
    return node;
  }

  // ---- the view: one zoom and one centre for every picture ----

  const view = { zoom: 0, x: 0.5, y: 0.5, panels: [], width: 1, height: 1, beside: true };
  const exactZoom = () => 1 / (window.devicePixelRatio || 1);
  const box = () => view.panels[0].frame.getBoundingClientRect();
  const fitting = () => Math.min(box().width / view.width, box().height / view.height);
  const zoomNow = () => view.zoom || fitting();

  function draw() {
    if (!view.panels.length) return;
    for (const { frame, image } of view.panels) {
      if (!image.naturalWidth) continue;
      // Until somebody zooms, every panel shows all of its picture, the smaller ones too.
      const zoom = view.zoom || Math.min(frame.clientWidth / view.width, frame.clientHeight / view.height);
      const scale = zoom * view.width / image.naturalWidth;
      const left = frame.clientWidth / 2 - view.x * view.width * zoom;
      const top = frame.clientHeight / 2 - view.y * view.height * zoom;
      image.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
      image.classList.toggle("sharp", zoom >= 2 * exactZoom());
    }
    $("zoom").textContent = `${Math.round(zoomNow() / exactZoom() * 100)} %`;
  }

  function setZoom(zoom, at = [0.5, 0.5]) {
    const old = zoomNow();
    const next = Math.min(Math.max(zoom, fitting() / 2), 32 * exactZoom());
    // What lies under the pointer stays there.
    const { width, height } = box();
    view.x += (at[0] - 0.5) * width / view.width * (1 / old - 1 / next);
    view.y += (at[1] - 0.5) * height / view.height * (1 / old - 1 / next);
    view.zoom = next;
    hold();
  }

  function pan(dx, dy) {
    const zoom = zoomNow();
    view.x -= dx / (view.width * zoom);
    view.y -= dy / (view.height * zoom);
    hold();
  }

  function hold() {
    view.x = Math.min(Math.max(view.x, 0), 1);
    view.y = Math.min(Math.max(view.y, 0), 1);
    draw();
  }

  function fit() { Object.assign(view, { zoom: 0, x: 0.5, y: 0.5 }); draw(); }

  function panel(source, title, area) {
    const image = make("img", [], { alt: `${title} picture`, draggable: "false" });
    const frame = make("div", image, { class: "view" });
    const figure = make("figure", [make("figcaption", title), frame], { style: `grid-area: ${area}` });
    image.src = source;
    let held = null;
    frame.addEventListener("pointerdown", (event) => {
      held = [event.clientX, event.clientY];
      frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointermove", (event) => {
      if (!held) return;
      pan(event.clientX - held[0], event.clientY - held[1]);
      held = [event.clientX, event.clientY];
    });
    for (const end of ["pointerup", "pointercancel"]) frame.addEventListener(end, () => { held = null; });
    frame.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { left, top, width, height } = frame.getBoundingClientRect();
      const factor = Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015));
      setZoom(zoomNow() * factor, [(event.clientX - left) / width, (event.clientY - top) / height]);
    }, { passive: false });
    return { figure, frame, image };
  }

  // ---- questions and answers ----

  let ready = false;
  let shown = -1;
  let turns = 0;

  async function ask() {
    const index = state.votes.length;
    const turn = ++turns;
    const one = asked[index];
    const pictures = [["left", "Left"], ["right", "Right"]];
    const beside = view.beside ? data.beside : [];
    ready = false;
    view.panels = pictures.map(([side, title]) => panel(data.sources[one[side]], title, side));
    beside.forEach(([key, title], i) => {
      view.panels.push(panel(data.sources[one[key]], title, i ? "second" : "first"));
    });
    $("stage").className = beside.length ? `with-${beside.length}` : "";
    $("stage").replaceChildren(...view.panels.map((each) => each.figure));
    try {
      await Promise.all(view.panels.map((each) => each.image.decode()));
    } catch {
      if (turn === turns) trouble("A picture cannot be shown. Is the folder of pictures beside this page?");
      return;
    }
    // Meanwhile somebody may have answered, gone back or ended.
    if (turn !== turns || state.revealed) return;
    trouble("");
    const { naturalWidth, naturalHeight } = view.panels[0].image;
    Object.assign(view, { width: naturalWidth || 1, height: naturalHeight || 1 });
    if (shown !== index) { fit(); since = performance.now(); }
    shown = index;
    draw();
    ready = true;
    $("stage").dataset.ready = String(index);
    const next = asked[index + 1];
    // Ahead, so that nobody waits for the next pair.
    if (next) for (const side of ["left", "right"]) new Image().src = data.sources[next[side]];
  }

  function answer(choice) {
    if (!ready || state.revealed || state.votes.length >= asked.length) return;
    const seconds = Math.round((performance.now() - since) / 100) / 10;
    state.votes.push({ choice, seconds });
    keep();
    const words = { left: "Left", right: "Right", tie: "No difference", skip: "Skipped" }[choice];
    say(`${words}. ${state.votes.length} of ${asked.length} done.`);
    render();
  }

  function undo() {
    if (state.revealed || !state.votes.length) return;
    state.votes.pop();
    keep();
    say(`Taken back. ${state.votes.length} of ${asked.length} done.`);
    render();
  }

  function toggleBeside() {
    if (!data.beside.length) return;
    view.beside = !view.beside;
    $("beside").setAttribute("aria-pressed", String(view.beside));
    if (!$("judge").hidden) ask();
  }

  function render() {
    const done = state.votes.length, total = asked.length;
    $("count").textContent = done < total && !state.revealed ? `${done + 1} of ${total}` : `${done} of ${total}`;
    $("bar").max = total;
    $("bar").value = done;
    $("undo").disabled = !done;
    $("open-finish").hidden = state.revealed || done === total;
    $("judge").hidden = state.revealed || done === total;
    $("last").hidden = state.revealed || done < total;
    $("results").hidden = !state.revealed;
    if (!$("judge").hidden) ask();
    if (!$("last").hidden) $("reveal").focus();
    if (state.revealed) showResults();
  }

  // ---- scores: Bradley-Terry with Davidson's ties, as idas_sr/comparison/scores.py ----

  function inverse(matrix) {
    const n = matrix.length;
    const rows = matrix.map((row, i) => [...row, ...row.map((_, j) => (i === j ? 1 : 0))]);
    for (let i = 0; i < n; i++) {
      let best = i;
      for (let k = i + 1; k < n; k++) if (Math.abs(rows[k][i]) > Math.abs(rows[best][i])) best = k;
      [rows[i], rows[best]] = [rows[best], rows[i]];
      rows[i] = rows[i].map((value) => value / rows[i][i]);
      for (let k = 0; k < n; k++) {
        if (k !== i) { const factor = rows[k][i]; rows[k] = rows[k].map((value, j) => value - factor * rows[i][j]); }
      }
    }
    return rows.map((row) => row.slice(n));
  }

  function tally(votes, count) {
    const square = () => Array.from({ length: count }, () => new Array(count).fill(0));
    const wins = square(), ties = square();
    let skipped = 0;
    for (const { left, right, choice } of votes) {
      if (choice === "left") wins[left][right]++;
      else if (choice === "right") wins[right][left]++;
      else if (choice === "tie") { ties[left][right]++; ties[right][left]++; }
      else skipped++;
    }
    return { wins, ties, skipped };
  }

  function connected(wins, ties) {
    const seen = new Set([0]);
    for (const i of seen) wins.forEach((_, j) => { if (wins[i][j] + wins[j][i] + ties[i][j]) seen.add(j); });
    return seen.size === wins.length;
  }

  function scoresOf({ wins, ties }) {
    const size = wins.length;
    const hasTies = ties.some((row) => row.some((value) => value));
    const width = size + (hasTies ? 1 : 0);
    const pairs = [];
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < i; j++) {
        if (!(wins[i][j] + wins[j][i] + ties[i][j])) continue;
        const feature = (half) => { const f = new Array(width).fill(0); f[i] = half; f[j] = -half; return f; };
        const outcomes = [[wins[i][j] + data.correction, feature(0.5)], [wins[j][i] + data.correction, feature(-0.5)]];
        if (hasTies) { const f = new Array(width).fill(0); f[size] = 1; outcomes.push([ties[i][j], f]); }
        pairs.push(outcomes);
      }
    }
    // Differences are all that the likelihood knows; this holds the sum of the scores at 0.
    const inSum = (f) => (f < size ? 1 / size : 0);

    function at(x) {
      const gradient = x.map((_, f) => inSum(f) * x.slice(0, size).reduce((a, b) => a + b, 0));
      const curvature = x.map((_, f) => x.map((__, g) => (f < size && g < size ? 1 / size : 0)));
      let cost = x.slice(0, size).reduce((a, b) => a + b, 0) ** 2 / (2 * size);
      for (const outcomes of pairs) {
        const logits = outcomes.map(([, f]) => f.reduce((sum, value, k) => sum + value * x[k], 0));
        const top = Math.max(...logits);
        const weights = logits.map((value) => Math.exp(value - top));
        const whole = weights.reduce((a, b) => a + b, 0);
        const p = weights.map((value) => value / whole);
        const total = outcomes.reduce((sum, [number]) => sum + number, 0);
        const mean = x.map((_, f) => outcomes.reduce((sum, [, feature], o) => sum + p[o] * feature[f], 0));
        outcomes.forEach(([number, feature], o) => {
          cost -= number * Math.log(p[o]);
          for (let f = 0; f < width; f++) {
            gradient[f] += (total * p[o] - number) * feature[f];
            for (let g = 0; g < width; g++) {
              curvature[f][g] += total * p[o] * (feature[f] - mean[f]) * (feature[g] - mean[g]);
            }
          }
        });
      }
      return { cost, gradient, curvature };
    }

    // Newton's method; the cost is convex, and a step that does not lower it is halved.
    let x = new Array(width).fill(0), now = at(x);
    for (let turn = 0; turn < 200; turn++) {
      const back = inverse(now.curvature);
      const step = back.map((row) => row.reduce((sum, value, k) => sum - value * now.gradient[k], 0));
      let share = 1, moved = x, next = now;
      for (; share > 1e-9; share /= 2) {
        moved = x.map((value, k) => value + share * step[k]);
        next = at(moved);
        if (next.cost <= now.cost + 1e-12) break;
      }
      x = moved;
      now = next;
      if (Math.max(...step.map(Math.abs)) < 1e-12) break;
    }
    const spread = inverse(now.curvature).map((row, f) => row.map((v, g) => v - (f < size && g < size ? 1 / size : 0)));
    return { score: x.slice(0, size), spread };
  }

  // ---- results ----

  const WIDTH = 1.959963984540054;

  function decided() {
    return state.votes.map((vote, i) => {
      const [left, right] = asked[i].methods;
      return { picture: asked[i].picture, left, right, choice: vote.choice, seconds: vote.seconds };
    });
  }

  function table(head, rows, caption, kind = "") {
    const top = make("tr", head.map((cell) => make("th", cell, { scope: "col" })));
    const body = rows.map((cells) => make("tr", cells.map((cell, i) => {
      if (cell instanceof Node) return cell;
      return i ? make("td", cell) : make("th", cell, { scope: "row" });
    })));
    const all = make("table", [make("caption", caption), make("thead", top), make("tbody", body)], { class: kind });
    return make("div", all, { class: "wide" });
  }

  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

  function bar(score, low, high, range) {
    const at = (value) => 4 + 192 * (value + range) / (2 * range);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const shapes = [
      ["line", { x1: at(0), x2: at(0), y1: 0, y2: 30, stroke: "#7d7d7d", "stroke-dasharray": "2 2" }],
      ["line", { x1: at(low), x2: at(high), y1: 15, y2: 15, stroke: "#8ecaff", "stroke-width": 2.5 }],
      ["line", { x1: at(low), x2: at(low), y1: 10, y2: 20, stroke: "#8ecaff", "stroke-width": 1.5 }],
      ["line", { x1: at(high), x2: at(high), y1: 10, y2: 20, stroke: "#8ecaff", "stroke-width": 1.5 }],
      ["line", { x1: at(score), x2: at(score), y1: 15, y2: 15, stroke: "#f4f4f4", "stroke-width": 9,
        "stroke-linecap": "round" }],
    ];
    svg.setAttribute("viewBox", "0 0 200 30");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    for (const [tag, attributes] of shapes) {
      const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
      // The drawing is stretched to its cell; strokes, and the dot that is one, are not.
      shape.setAttribute("vector-effect", "non-scaling-stroke");
      for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
      svg.append(shape);
    }
    return make("td", svg, { class: "plot" });
  }

  function showResults() {
    const names = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(data.sealed), (c) => c.charCodeAt(0))));
    const votes = decided();
    const counts = tally(votes, names.length);
    const judged = votes.length - counts.skipped;
    $("summary").textContent = `${judged} of ${asked.length} questions answered, ${counts.skipped} skipped.`;
    showAnswers(votes, names);
    if (!judged || !connected(counts.wins, counts.ties)) {
      $("scores").replaceChildren(make("p", "Some of the results were never compared with the others, so there are no "
        + `scores. They are: ${names.join(", ")}.`));
      $("pairs").replaceChildren();
      return;
    }
    const { score, spread } = scoresOf(counts);
    const order = names.map((_, i) => i).sort((a, b) => score[b] - score[a]);
    const half = score.map((_, i) => WIDTH * Math.sqrt(Math.max(spread[i][i], 0)));
    const range = 1.08 * Math.max(...score.map((value, i) => Math.abs(value) + half[i]));
    const sum = (row) => row.reduce((a, b) => a + b, 0);
    const rows = order.map((i) => {
      const [low, high] = [score[i] - half[i], score[i] + half[i]];
      const name = make("th", names[i], { scope: "row", "data-score": score[i], "data-low": low, "data-high": high });
      const lost = sum(counts.wins.map((row) => row[i]));
      return [name, signed(score[i]), `${signed(low)} to ${signed(high)}`, bar(score[i], low, high, range),
        `${sum(counts.wins[i])}`, `${sum(counts.ties[i])}`, `${lost}`];
    });
    $("scores").replaceChildren(table(["result", "score", "95 % interval", "", "wins", "ties", "losses"], rows,
      "Scores, from best to worst"));
    $("pairs").replaceChildren(pairwise(names, counts, score, spread, order));
  }

  function pairwise(names, { wins, ties }, score, spread, order) {
    const rows = [];
    order.forEach((i, at) => order.slice(at + 1).forEach((j) => {
      if (!(wins[i][j] + wins[j][i] + ties[i][j])) return;
      const difference = score[i] - score[j];
      const width = WIDTH * Math.sqrt(spread[i][i] + spread[j][j] - 2 * spread[i][j]);
      const [odds, low, high] = [0, -width, width].map((shift) => Math.exp(difference + shift).toFixed(2));
      rows.push([`${names[i]} over ${names[j]}`, odds, `${low} to ${high}`, `${wins[i][j]}`, `${ties[i][j]}`,
        `${wins[j][i]}`, difference > width ? "yes" : "no"]);
    }));
    return table(["", "odds", "95 % interval", "wins", "ties", "losses", "clear"], rows,
      "Pairs. Clear: the interval leaves out even odds");
  }

  function showAnswers(votes, names) {
    const rows = votes.map(({ picture, left, right, choice, seconds }) => {
      const words = { left: names[left], right: names[right], tie: "no difference", skip: "skipped" }[choice];
      return [picture, names[left], names[right], words, `${seconds} s`];
    });
    $("answers").replaceChildren(table(["picture", "left", "right", "better", "after"], rows, "", "words"));
  }

  // ---- files ----

  function ballot() {
    const { format, page, question, sealed } = data;
    return { format, page, question, rater: state.rater, sealed, revealed: state.revealed, votes: decided() };
  }

  function save() {
    const link = make("a", [], { download: `votes-${data.page}${state.rater ? `-${state.rater.replace(/\W+/g, "_")}` : ""}.json` });
    link.href = URL.createObjectURL(new Blob([`${JSON.stringify(ballot(), null, 1)}\n`], { type: "application/json" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say("Saved.");
  }

  function problemWith(file) {
    if (!file || file.format !== data.format || !Array.isArray(file.votes)) return "This is no file of votes.";
    if (file.page !== data.page) return "These votes are of another page.";
    if (file.votes.length > asked.length) return "These votes are more than the questions of this page.";
    const fits = file.votes.every((vote, i) => vote.picture === asked[i].picture
      && vote.left === asked[i].methods[0] && vote.right === asked[i].methods[1]
      && ["left", "right", "tie", "skip"].includes(vote.choice));
    return fits ? "" : "These votes are not in the order of this page.";
  }

  async function take(file) {
    let content = null;
    try { content = JSON.parse(await file.text()); } catch { /* said below */ }
    const problem = problemWith(content);
    $("problem").textContent = problem;
    if (problem) return;
    if (state.votes.length && !(await confirmed(`Replace the ${state.votes.length} votes here by the `
      + `${content.votes.length} of the file?`))) return;
    state.votes = content.votes.map(({ choice, seconds }) => ({ choice, seconds: Number(seconds) || 0 }));
    Object.assign(state, { rater: String(content.rater || ""), revealed: content.revealed === true });
    keep();
    $("votes").close();
    say(`${state.votes.length} votes read.`);
    shown = -1;
    render();
  }

  function confirmed(words) {
    $("confirm-text").textContent = words;
    $("confirm").returnValue = "no";
    $("confirm").showModal();
    return new Promise((done) => {
      $("confirm").addEventListener("close", () => done($("confirm").returnValue === "yes"), { once: true });
    });
  }

  function openVotes() {
    const where = kept ? "They are kept in this browser, on this machine" : "This browser keeps nothing: save them before you close the page";
    $("kept").textContent = `${state.votes.length} of ${asked.length} questions answered. ${where}.`;
    $("rater").value = state.rater;
    $("problem").textContent = "";
    $("votes").showModal();
  }

  async function startAgain(words) {
    if (!(await confirmed(words))) return;
    Object.assign(state, { votes: [], revealed: false });
    keep();
    if ($("votes").open) $("votes").close();
    shown = -1;
    render();
  }

  async function finish() {
    const words = `${state.votes.length} of ${asked.length} questions are answered. Show the names and end here? `
      + "The answers stay as they are then.";
    if (await confirmed(words)) reveal();
  }

  function reveal() {
    state.revealed = true;
    keep();
    render();
    scrollTo(0, 0);
    say("Results.");
  }

  // ---- hands ----

  const STEP = 1.25, REACH = 60;
  const keys = {
    ArrowLeft: () => answer("left"), ArrowRight: () => answer("right"), ArrowDown: () => answer("tie"),
    t: () => answer("tie"), s: () => answer("skip"), u: undo, Backspace: undo, r: toggleBeside,
    "+": () => setZoom(zoomNow() * STEP), "=": () => setZoom(zoomNow() * STEP),
    "-": () => setZoom(zoomNow() / STEP), 0: fit, 1: () => setZoom(exactZoom()),
  };
  const moves = {
    ArrowLeft: () => pan(REACH, 0), ArrowRight: () => pan(-REACH, 0),
    ArrowUp: () => pan(0, REACH), ArrowDown: () => pan(0, -REACH),
  };
  const repeats = new Set(["+", "=", "-"]);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea")) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "?") { $("keys").showModal(); event.preventDefault(); return; }
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if ($("judge").hidden && !["u", "Backspace"].includes(key)) return;
    const act = event.shiftKey && moves[key] ? moves[key] : keys[key];
    // A key that is held down is one answer, not many.
    if (!act || (event.repeat && !repeats.has(key) && !event.shiftKey)) return;
    event.preventDefault();
    act();
  });

  for (const button of document.querySelectorAll("[data-choice]")) {
    button.addEventListener("click", () => { answer(button.dataset.choice); });
  }
  const clicks = {
    undo, back: undo, beside: toggleBeside, fit, in: () => keys["+"](), out: () => keys["-"](), exact: () => keys[1](),
    reveal, "open-finish": finish, "open-votes": openVotes, "open-keys": () => $("keys").showModal(),
    export: save, "export-results": save, import: () => $("file").click(),
    clear: () => startAgain("Delete all votes on this page?"),
    again: () => startAgain("Delete these votes and start again? You know the names now, so it is blind no more."),
  };
  for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
  $("rater").addEventListener("input", () => { state.rater = $("rater").value.trim(); keep(); });
  $("file").addEventListener("change", async () => {
    if ($("file").files.length) await take($("file").files[0]);
    $("file").value = "";
  });
  addEventListener("resize", draw);

  if (data.beside.length) {
    $("beside").hidden = false;
    $("beside-title").textContent = data.beside.map(([, title]) => title).join(", ");
  }
  load();
  keep();
  render();
})();
