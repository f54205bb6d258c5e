"use strict";
// Tokens stand in the page already; this script colours, counts and moves. It writes text as text only.
(() => {
  const by = (id) => document.getElementById(id);
  const data = JSON.parse(by("data").textContent);
  const sections = [...document.querySelectorAll("main > .rollout")];
  if (!sections.length) return;
  const root = document.documentElement, tip = by("tip"), now = by("now"), strip = by("strip"), bins = data.bins;
  const at = { rollout: 0, readout: data.start[0], layer: data.start[1], token: -1 };
  let tokens = [], scores = [], numbered = false;

  // ---- scores: little-endian IEEE halves in base64
  const half = (h) => {
    const sign = h & 0x8000 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  };
  const decode = (text) => {
    const bytes = atob(text), values = new Float64Array(bytes.length / 2);
    for (let i = 0; i < values.length; i++) values[i] = half(bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8));
    return values;
  };
  const readout = () => data.readouts[at.readout];
  const step = (score) => {
    if (Number.isNaN(score)) return -1;
    const share = Math.max(-1, Math.min(1, (score - readout().centre) / readout().limit));
    return Math.floor(share * bins + 0.5) + bins;
  };
  const number = (x, signed = true) => {
    if (Number.isNaN(x)) return "not scored";
    const size = Math.abs(x), sign = x < 0 ? "−" : signed ? "+" : "";
    return sign + (size === Infinity ? "∞" : size.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0));
  };

  // ---- where a token stands
  const rollout = () => data.rollouts[at.rollout];
  const last = (list, fits) => { let found = null; for (const x of list) { if (fits(x)) found = x; else break; } return found; };
  const position = (i) => { const [place, pos] = last(rollout().pos, (x) => x[0] <= i); return pos + i - place; };
  const run = (i) => last(rollout().runs, (x) => x[1] <= i);
  const unit = () => (readout().layers[at.layer] === null ? readout().unit : `${readout().unit}, layer ${readout().layers[at.layer]}`);
  const reading = (i) => Number.isNaN(scores[i]) ? "not scored" : `${number(scores[i])} ${readout().unit}`;
  const place = (i) => {
    const words = [`${run(i)[0] || "no segment"}, position ${position(i)}`], end = rollout().end;
    if (end !== null) {
      const away = i - end;
      words.push(away === 0 ? "closes the thinking" : `${Math.abs(away)} ${away < 0 ? "before" : "after"} the end of thinking`);
    }
    return words.join(", ");
  };

  // ---- colours and the strip
  const colour = () => {
    const column = rollout().scores[at.readout][at.layer];
    scores = column === null ? new Float64Array(tokens.length).fill(NaN) : decode(column);
    for (let i = 0; i < tokens.length; i++) {
      const k = step(scores[i]), name = k < 0 ? "na" : "a" + k;
      tokens[i].className = i === at.token ? name + " on" : name;
      if (numbered) tokens[i].dataset.score = Number.isNaN(scores[i]) ? "" : number(scores[i]);
    }
    const r = readout(), layer = r.layers[at.layer];
    by("which").textContent = layer === null ? "none" : r.layers.length < 2 ? layer : `${layer} of ${r.layers[0]}–${r.layers[r.layers.length - 1]}`;
    by("low").textContent = "≤ " + number(r.centre - r.limit);
    by("high").textContent = "≥ " + number(r.centre + r.limit);
    by("what").textContent = `${r.name}${layer === null ? "" : ", layer " + layer}; unit: ${r.unit}; uncoloured: ${number(r.centre, false)}; dotted: not scored`;
    draw();
    say();
  };
  let due = false;
  const draw = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; paint(); });
  };
  const paint = () => {
    const wide = strip.clientWidth, high = 60, ratio = window.devicePixelRatio || 1, n = tokens.length;
    if (!wide) return;
    strip.width = wide * ratio;
    strip.height = high * ratio;
    const pen = strip.getContext("2d"), style = getComputedStyle(root), middle = 24, reach = 22, r = readout();
    pen.scale(ratio, ratio);
    const dark = getComputedStyle(document.body).backgroundColor !== "rgb(255, 255, 255)";
    pen.fillStyle = style.getPropertyValue("--line");
    pen.fillRect(0, middle, wide, 1);
    const each = wide / n, thick = Math.max(1, each - (each > 4 ? 1 : 0)), fits = Math.min(1, each);
    let strongest = null, column = -1;  // of tokens that share a pixel the strongest is drawn
    const bar = () => {
      if (strongest === null) return;
      pen.fillStyle = strongest < 0 ? (dark ? "#e0765c" : "#c8553d") : dark ? "#6aa9d8" : "#2f78b4";
      pen.fillRect(column * Math.max(each, 1), strongest < 0 ? middle : middle - strongest * reach, thick, Math.max(1, Math.abs(strongest) * reach));
      strongest = null;
    };
    for (let i = 0; i < n; i++) {
      const here = Math.floor(i * fits + 1e-9);
      if (here !== column) { bar(); column = here; }
      const share = Math.max(-1, Math.min(1, (scores[i] - r.centre) / r.limit));
      if (!Number.isNaN(share) && (strongest === null || Math.abs(share) > Math.abs(strongest))) strongest = share;
    }
    bar();
    pen.font = "10px system-ui, sans-serif";
    let free = 0;
    for (const [name, start] of rollout().runs) {
      pen.fillStyle = style.getPropertyValue("--muted");
      pen.fillRect(start * each, 0, 1, 50);
      const width = pen.measureText(name).width, x = Math.min(start * each + 3, wide - width);
      if (x >= free && name) { pen.fillText(name, x, 57); free = x + width + 6; }
    }
    if (at.token >= 0) {
      pen.strokeStyle = style.getPropertyValue("--focus");
      pen.lineWidth = 2;
      pen.strokeRect(at.token * each - 1, 1, Math.max(3, each) + 1, 47);
    }
    strip.setAttribute("aria-label", `Score of ${r.name} along the ${n} tokens of the rollout; a click goes to a token`);
  };
  const say = () => {
    now.textContent = at.token < 0 ? "Choose a token: click one, or press → or e." :
      `${reading(at.token)} (${readout().name}${readout().layers[at.layer] === null ? "" : ", layer " + readout().layers[at.layer]}) · ${place(at.token)} · “${tokens[at.token].textContent.slice(0, 60).replaceAll("\n", "")}”`;
  };

  // ---- moving
  const go = (i, focus = true) => {
    if (!tokens.length) return;
    i = Math.max(0, Math.min(tokens.length - 1, i));
    const old = tokens[at.token];
    if (old) { old.classList.remove("on"); old.tabIndex = -1; }
    at.token = i;
    tokens[i].classList.add("on");
    tokens[i].tabIndex = 0;
    if (focus) tokens[i].focus({ preventScroll: true });
    tokens[i].scrollIntoView({ block: "nearest" });
    const top = document.querySelector("header").getBoundingClientRect().bottom, box = tokens[i].getBoundingClientRect();
    if (box.top < top + 30) window.scrollBy(0, box.top - top - 60);
    else if (box.bottom > window.innerHeight - 20) window.scrollBy(0, box.bottom - window.innerHeight + 60);
    draw();
    say();
  };
  const line = (way) => {
    // the token of the next line that lies nearest to the current one
    const here = tokens[at.token].getBoundingClientRect(), x = here.left + here.width / 2;
    let best = -1, apart = Infinity, top = null;
    for (let i = at.token + way; i >= 0 && i < tokens.length; i += way) {
      const box = tokens[i].getClientRects()[0];
      if (!box || Math.abs(box.top - here.top) < 4) continue;
      if (top === null) top = box.top;
      if (Math.abs(box.top - top) > 4) break;
      const far = Math.abs((box.left + box.right) / 2 - x);
      if (far < apart) { apart = far; best = i; }
    }
    if (best >= 0) go(best);
  };
  const segment = (way) => {
    const starts = rollout().runs.map((x) => x[1]);
    const next = way > 0 ? starts.find((s) => s > at.token) : [...starts].reverse().find((s) => s < at.token);
    go(next === undefined ? (way > 0 ? tokens.length - 1 : 0) : next);
  };
  const end = () => {
    if (rollout().end !== null) go(rollout().end);
    else now.textContent = "This rollout has no end of thinking.";
  };

  // ---- switches
  const open = (i) => {
    const same = data.rollouts[i].id === rollout().id;
    const kept = same && at.token >= 0 ? at.token : -1, focused = tokens.includes(document.activeElement);
    for (const t of tokens) { t.classList.remove("on"); t.removeAttribute("tabindex"); }
    sections[at.rollout].classList.remove("shown");
    at.rollout = i;
    at.token = -1;
    sections[i].classList.add("shown");
    tokens = [...sections[i].querySelectorAll("bdi")];
    tokens.forEach((t, k) => { t.place = k; });
    if (tokens.length) tokens[0].tabIndex = 0;
    by("rollout").value = i;
    by("before").disabled = i === 0;
    by("after").disabled = i === sections.length - 1;
    by("end").disabled = rollout().end === null;
    colour();
    if (kept >= 0) go(Math.min(kept, tokens.length - 1), focused);
    else window.scrollTo(0, 0);
  };
  const levels = () => {
    const slider = by("layer");
    slider.max = readout().layers.length - 1;
    slider.disabled = readout().layers.length < 2;
    slider.value = at.layer;
    slider.setAttribute("aria-valuetext", unit());
  };
  const read = (k) => {
    const layer = readout().layers[at.layer];
    at.readout = k;
    const same = readout().layers.indexOf(layer);
    at.layer = same >= 0 ? same : readout().layers.length - 1;
    by("readout").value = k;
    levels();
    colour();
  };
  const level = (k) => {
    if (k < 0 || k >= readout().layers.length) return;
    at.layer = k;
    levels();
    colour();
  };
  const numbers = () => {
    numbered = !numbered;
    by("main").classList.toggle("numbered", numbered);
    by("numbers").setAttribute("aria-pressed", String(numbered));
    colour();
    if (at.token >= 0) go(at.token, false);
  };
  const theme = () => {
    const order = ["auto", "light", "dark"], next = order[(order.indexOf(root.dataset.theme || "auto") + 1) % 3];
    if (next === "auto") delete root.dataset.theme; else root.dataset.theme = next;
    by("theme").textContent = "Theme: " + next;
    draw();
  };

  // ---- events
  const main = by("main");
  const under = (event) => { const t = event.target.closest ? event.target.closest("bdi") : null; return t && t.place !== undefined ? t : null; };
  main.addEventListener("pointermove", (event) => {
    const t = under(event);
    tip.hidden = !t;
    if (!t) return;
    tip.textContent = `${reading(t.place)}\n${place(t.place)}`;
    const box = tip.getBoundingClientRect();
    const x = Math.min(event.clientX + 12, window.innerWidth - box.width - 4);
    const y = event.clientY + 18 + box.height > window.innerHeight ? event.clientY - box.height - 10 : event.clientY + 18;
    tip.style.transform = `translate(${Math.max(0, x)}px, ${y}px)`;
  });
  main.addEventListener("pointerleave", () => { tip.hidden = true; });
  window.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  main.addEventListener("click", (event) => { const t = under(event); if (t) go(t.place); });
  main.addEventListener("focusin", (event) => { const t = under(event); if (t && t.place !== at.token) go(t.place, false); });
  strip.addEventListener("click", (event) => {
    const box = strip.getBoundingClientRect();
    go(Math.floor(((event.clientX - box.left) / box.width) * tokens.length));
  });
  by("rollout").addEventListener("change", (event) => open(Number(event.target.value)));
  by("before").addEventListener("click", () => { if (at.rollout) open(at.rollout - 1); });
  by("after").addEventListener("click", () => { if (at.rollout < sections.length - 1) open(at.rollout + 1); });
  by("readout").addEventListener("change", (event) => read(Number(event.target.value)));
  by("layer").addEventListener("input", (event) => level(Number(event.target.value)));
  by("end").addEventListener("click", end);
  by("numbers").addEventListener("click", numbers);
  by("theme").addEventListener("click", theme);
  const keys = {
    ArrowRight: () => go(at.token + 1), ArrowLeft: () => go(Math.max(0, at.token - 1)),
    ArrowDown: () => (at.token < 0 ? go(0) : line(1)), ArrowUp: () => (at.token < 0 ? go(0) : line(-1)),
    Home: () => go(0), End: () => go(tokens.length - 1),
    j: () => segment(1), k: () => segment(-1), e: end,
    "]": () => level(at.layer + 1), "[": () => level(at.layer - 1),
    r: () => read((at.readout + 1) % data.readouts.length),
    n: () => by("after").click(), p: () => by("before").click(), v: numbers, t: theme,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input")) return;
    if (event.key === "Escape") { tip.hidden = true; return; }
    if (!Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  root.classList.add("ready");
  for (const id of ["controls", "strip", "now", "keys"]) by(id).hidden = false;
  open(0);
  levels();
})();
