/* The page's few moving parts: theme, sorting, filtering, copying, values on plots. Without it everything is still there to read. */
"use strict";
(() => {
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const live = make("p", { id: "live", className: "unseen" });
  live.setAttribute("role", "status");
  document.body.append(live);
  const say = (text) => { live.textContent = ""; live.textContent = text; };

  // Theme: the system's until the button is used. A page from disk may have no storage.
  const root = document.documentElement;
  const stored = (value) => {
    try { return value ? localStorage.setItem("nha-eval-theme", value) : localStorage.getItem("nha-eval-theme"); } catch { return null; }
  };
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const theme = document.getElementById("theme");
  const label = () => { theme.textContent = dark() ? "Light theme" : "Dark theme"; };
  if (["dark", "light"].includes(stored())) root.dataset.theme = stored();
  theme.hidden = false;
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    stored(root.dataset.theme);
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();

  // Tables. A cell's key is its first number (with its unit), so that "1,024", "4.3 MiB" and "0.41 ± 0.02" sort as figures.
  const UNITS = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };
  const names = new Intl.Collator("en", { numeric: true });
  const figure = (text) => {
    const found = /^[<>]?\s*([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)\s*([KMG]iB)?/.exec(text);
    return found ? Number(found[1].replaceAll(",", "")) * (UNITS[found[2]] || 1) : NaN;
  };
  const text = (row, column) => row.cells[column].textContent.trim();
  const compare = (column, asText, way) => (a, b) => {
    const [left, right] = [text(a, column), text(b, column)];
    if (asText) return way * names.compare(left, right);
    const [x, y] = [figure(left), figure(right)];
    // What is no figure stays last, whichever way the others go.
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || names.compare(left, right);
    return way * (x - y);
  };
  const field = (value) => {
    // A spreadsheet would run what begins like a formula.
    const safe = /^[=+@\t-]/.test(value) && Number.isNaN(Number(value.split(" ")[0].replaceAll(",", ""))) ? `'${value}` : value;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const copy = async (content) => {
    try { await navigator.clipboard.writeText(content); return true; } catch {
      const area = make("textarea", { value: content });
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };

  for (const region of document.querySelectorAll(".table")) {
    const table = region.querySelector("table");
    const body = table.tBodies[0];
    const original = [...body.rows];
    const title = region.dataset.title;
    const bar = make("div", { className: "tools" });
    const count = make("span", { className: "note" });

    const heads = [...table.tHead.rows[0].cells];
    if (original.length > 1) heads.forEach((head, column) => {
      const button = make("button", { type: "button" }, ...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      const asText = original.every((row) => Number.isNaN(figure(text(row, column))));
      button.addEventListener("click", () => {
        const ways = asText ? ["ascending", "descending", "none"] : ["descending", "ascending", "none"];
        const next = ways[(ways.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", next);
        const rows = next === "none" ? original : [...original].sort(compare(column, asText, next === "ascending" ? 1 : -1));
        body.append(...rows);
        say(next === "none" ? `${title}: as at first` : `${title}: sorted by ${button.textContent}, ${next}`);
      });
    });

    if (original.length > 5) {
      const input = make("input", { type: "search", placeholder: "words" });
      input.setAttribute("aria-label", `Filter ${title}`);
      const texts = new Map(original.map((row) => [row, row.textContent.toLowerCase()]));
      input.addEventListener("input", () => {
        const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
        let shown = 0;
        for (const row of original) {
          row.hidden = !words.every((word) => texts.get(row).includes(word));
          shown += !row.hidden;
        }
        count.textContent = words.length ? `${shown} of ${original.length} rows` : "";
        say(count.textContent);
      });
      bar.append(make("label", {}, "Filter ", input), count);
    }

    const button = make("button", { type: "button", textContent: "Copy as CSV" });
    button.setAttribute("aria-label", `Copy as CSV: ${title}`);
    button.addEventListener("click", async () => {
      const rows = [...table.rows].filter((row) => !row.hidden);
      const lines = rows.map((row) => [...row.cells].map((cell) => field(cell.textContent.trim())).join(","));
      const done = await copy(`${lines.join("\n")}\n`);
      button.textContent = done ? "Copied" : "Could not copy";
      say(`${button.textContent}: ${title}`);
      setTimeout(() => { button.textContent = "Copy as CSV"; }, 2000);
    });
    bar.append(button);
    region.before(bar);
  }

  // Values on plots: under the pointer, or one after another by the arrow keys.
  const tip = make("div", { className: "tip", hidden: true });
  const ring = make("div", { className: "ring", hidden: true });
  tip.setAttribute("aria-hidden", "true");
  document.body.append(ring, tip);
  const centre = (point) => {
    const box = point.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const show = (point, at) => {
    tip.hidden = ring.hidden = !point;
    if (!point) return;
    const [x, y] = at || centre(point);
    tip.textContent = point.dataset.tip;
    ring.hidden = point.localName !== "use";
    ring.style.translate = `${scrollX + x}px ${scrollY + y}px`;
    const left = Math.max(4, Math.min(x + 12, innerWidth - tip.offsetWidth - 12));
    const top = y - tip.offsetHeight - 12 < 0 ? y + 14 : y - tip.offsetHeight - 12;
    tip.style.translate = `${scrollX + left}px ${scrollY + top}px`;
  };
  for (const plot of document.querySelectorAll(".plot")) {
    const points = [...plot.querySelectorAll("[data-tip]")];
    if (!points.length) continue;
    const dots = points.filter((point) => point.localName === "use");
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-label", `${plot.dataset.title}: values one by one with the arrow keys`);
    let place = -1;
    plot.addEventListener("pointermove", (event) => {
      const near = dots.map((dot) => [dot, Math.hypot(centre(dot)[0] - event.clientX, centre(dot)[1] - event.clientY)])
        .reduce((best, one) => (one[1] < best[1] ? one : best), [null, 18]);
      const under = event.target.closest("[data-tip]");
      show(near[0] || under, near[0] ? null : [event.clientX, event.clientY]);
    });
    plot.addEventListener("pointerleave", () => show(null));
    plot.addEventListener("blur", () => show(null));
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") show(null);
      if (!step) return;
      event.preventDefault();
      place = place < 0 && step < 0 ? points.length - 1 : (place + step + points.length) % points.length;
      show(points[place]);
      say(points[place].dataset.tip);
    });
  }
})();
