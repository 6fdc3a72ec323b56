/* What a page can do besides being read. Without scripts it is complete; with them, it offers:

Sorting
  table[data-sortable]           the heads in the last row of its thead get buttons, which sort by
                                 their column: ascending, descending, as it was; aria-sort says it
    th[data-unsorted]            no button
    td|th[data-value]            what to sort by in place of the text, which is all but what is
                                 in <small>; a number where all of a column are, "" where there
                                 is none (always last)
    th[scope=row], .words        names: a number only where nothing stands beside it
    tr[data-pinned]              keeps its place at the beginning or the end of its tbody

Filters
  form[data-filters=ID][hidden]  filters the [data-item] inside #ID by its controls, and is shown;
    data-step=N                  at most N items at first, and a button for N more
    select[name=KEY]             items whose data-KEY is the value; all where it is empty
    input[type=range][name=KEY]  items whose data-KEY is at most the value (data-least: at least)
    input[type=search][name=KEY] items whose data-KEY, or text if they have none, holds every word
    output[for=ID of a range]    gets its value
    output[name=shown]           gets how many items are shown
    button[type=reset]           takes all filters back

Reading charts
  svg[data-read=x]               the pointer finds the mark nearest along x, the arrow keys walk
  svg[data-read=xy]              along the marks; xy: nearest in the plane. A mark is an element
                                 with a <title>, the words that are read out, at data-x or cx, cy.
                                 Its place is told to screen readers as that of a slider.

Sound
  audio                          one at a time

Strings of users only ever become textContent or values of attributes. */
"use strict";
(() => {
const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

const status = element("div", { role: "status", class: "unseen" });
document.body.append(status);
const say = words => { status.textContent = words; };

// Sorting

// A number, and after it nothing, a unit, or what figures have beside them: "12 (15)", "3 / 8",
// "43–57". Neither a date nor "3 cats" is one.
const NUMBER = new RegExp(
  /^[\s<>≤≥±×+]*([-−]?(?:[\d,]*\.)?[\d,]+(?:e[-+]?\d+)?)(?:\/(\d+))?/.source
  + /(?=$|\s*[%(±–]|\s+\/|\s*(?:[kMGT]|m?s|min|h|points?)(?!\w))/.source,
);
const ALONE = /^[-−+]?[\d,.]+(?:e[-+]?\d+)?$/;

function number(text) {
  const found = NUMBER.exec(text);
  if (!found) return NaN;
  const value = Number(found[1].replaceAll(",", "").replace("−", "-"));
  return found[2] ? value / Number(found[2]) : value;
}

function keyOf(cell) {
  const nodes = [...(cell?.childNodes ?? [])].filter(node => node.nodeName !== "SMALL");
  const text = (cell?.dataset.value ?? nodes.map(node => node.textContent).join("")).trim();
  return /^[–·—]?$/.test(text) ? null : text;
}

function valueOf(cell, key) {
  return cell.matches("th[scope=row], .words") && !ALONE.test(key) ? NaN : number(key);
}

function sorted(rows, column, falling) {
  const keyed = rows.map(row => ({ row, cell: row.cells[column], key: keyOf(row.cells[column]) }));
  const there = keyed.filter(({ key }) => key !== null);
  for (const one of there) one.value = valueOf(one.cell, one.key);
  const numbers = there.every(({ value }) => !Number.isNaN(value));
  const compare = numbers
    ? (a, b) => a.value - b.value
    : (a, b) => a.key.localeCompare(b.key, "en", { numeric: true });
  there.sort((a, b) => (falling ? compare(b, a) : compare(a, b)));
  return [...there, ...keyed.filter(({ key }) => key === null)].map(({ row }) => row);
}

function sort(body, first, column, order) {
  const pinned = row => "pinned" in row.dataset;
  const before = first.findIndex(row => !pinned(row));
  const moving = first.filter(row => !pinned(row));
  const ends = before < 0 ? [first, []] : [first.slice(0, before), first.slice(before).filter(pinned)];
  const between = order === "none" ? moving : sorted(moving, column, order === "descending");
  body.append(...ends[0], ...between, ...ends[1]);
}

function sortable(table) {
  const bodies = [...table.tBodies].map(body => [body, [...body.rows]]);
  const heads = [...(table.tHead?.rows[table.tHead.rows.length - 1]?.cells ?? [])];
  if (!bodies.some(([, rows]) => rows.length > 1)) return;
  for (const [column, head] of heads.entries()) {
    const name = head.textContent.trim();
    if ("unsorted" in head.dataset || !name) continue;
    const button = element("button", { type: "button", class: "sort" });
    if (head.querySelector("button")) {
      button.setAttribute("aria-label", `Sort by ${name}`);
      head.append(" ", button);
    } else {
      button.append(...head.childNodes);
      head.append(button);
    }
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "none" };
      const order = next[head.getAttribute("aria-sort")] ?? "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      if (order !== "none") head.setAttribute("aria-sort", order);
      for (const [body, rows] of bodies) sort(body, rows, column, order);
      say(order === "none" ? "In the first order" : `Sorted by ${name}, ${order}`);
    });
  }
}

// Filters

function test(control) {
  const { name, type, value } = control;
  if (type === "range") {
    const [bound, least] = [Number(value), "least" in control.dataset];
    const idle = bound === Number(least ? control.min : control.max);  // lets what has none pass
    return item => idle || (least ? item.dataset[name] >= bound : item.dataset[name] <= bound);
  }
  if (type === "search") {
    const words = value.toLowerCase().split(/\s+/);
    const text = item => (item.dataset[name] ?? item.textContent).toLowerCase();
    return item => words.every(word => text(item).includes(word));
  }
  return item => value === "" || item.dataset[name] === value;
}

function filters(form) {
  const target = document.getElementById(form.dataset.filters);
  const items = [...(target?.querySelectorAll("[data-item]") ?? [])];
  const controls = [...form.elements].filter(one => one.name && one.matches("select, input"));
  const step = Number(form.dataset.step) || Infinity;
  const more = element("button", { type: "button", class: "more" });
  let most = step;

  function show() {
    const tests = controls.map(test);
    const fitting = items.filter(item => tests.every(fits => fits(item)));
    const shown = new Set(fitting.slice(0, most));
    for (const item of items) item.hidden = !shown.has(item);
    const rest = fitting.length - shown.size;
    more.hidden = rest === 0;
    more.textContent = `Show ${Math.min(step, rest)} more`;
    for (const control of controls) {
      const told = control.id && form.querySelector(`output[for="${control.id}"]`);
      if (told) told.textContent = control.value;
    }
    const counted = form.querySelector("output[name=shown]");
    if (counted) counted.textContent = `${shown.size} of ${(rest ? fitting : items).length} shown`;
  }

  more.addEventListener("click", () => {
    const next = items.filter(item => item.hidden);
    most += step;
    show();
    const first = next.find(item => !item.hidden);  // the focus stays where one was reading
    first?.setAttribute("tabindex", "-1");
    first?.focus({ preventScroll: true });
  });
  form.addEventListener("input", () => { most = step; show(); });
  form.addEventListener("reset", () => setTimeout(() => { most = step; show(); }));
  form.addEventListener("submit", event => event.preventDefault());
  addEventListener("beforeprint", () => { most = Infinity; show(); });  // all that fits the filters
  addEventListener("afterprint", () => { most = step; show(); });
  target?.after(more);
  form.hidden = false;
  show();
}

// Reading charts

function reading(svg) {
  const plane = svg.dataset.read === "xy";
  const wide = svg.viewBox.baseVal.width, high = svg.viewBox.baseVal.height;
  const at = (mark, key) => Number(mark.dataset[key] ?? mark.getAttribute(`c${key}`));
  const marks = [...svg.querySelectorAll("title")].map(title => title.parentNode)
    .map(mark => ({ mark, x: at(mark, "x"), y: at(mark, "y"), lines: mark.textContent.split("\n") }))
    .sort((a, b) => a.x - b.x);
  if (!marks.length) return;
  const plot = element("div", { class: "plot" });
  const tip = element("div", { class: "tip", "aria-hidden": "true", hidden: "" });
  const what = svg.getAttribute("aria-label").split(":")[0];
  const reader = element("div", {
    class: "reader", role: "slider", tabindex: "0", "aria-label": `Values of: ${what}`,
    "aria-valuemin": "1", "aria-valuemax": marks.length, "aria-valuenow": "1",
    "aria-valuetext": marks[0].lines.join("; "),
  });
  svg.replaceWith(plot);
  plot.append(svg, reader, tip);
  let now = -1;

  function go(to) {
    marks[now]?.mark.classList.remove("read");
    now = Math.max(-1, Math.min(to, marks.length - 1));
    tip.hidden = now < 0;
    if (now < 0) return;
    const { mark, x, y, lines } = marks[now];
    mark.classList.add("read");
    tip.replaceChildren(...lines.map((line, i) => element(i ? "span" : "b", {}, line)));
    const box = svg.getBoundingClientRect(), place = x / wide * box.width;
    const side = place < box.width / 2 ? place + 12 : place - 12 - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(side, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${plane ? Math.max(0, y / high * box.height - tip.offsetHeight - 8) : 0}px`;
    reader.setAttribute("aria-valuenow", now + 1);
    reader.setAttribute("aria-valuetext", lines.join("; "));
  }

  function nearest(event) {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * wide;
    const y = (event.clientY - box.top) / box.height * high;
    const far = mark => Math.hypot(mark.x - x, plane ? mark.y - y : 0);
    return marks.reduce((best, mark, i) => (far(mark) < far(marks[best]) ? i : best), 0);
  }

  const leap = Math.max(1, Math.round(marks.length / 10));
  const keys = {
    ArrowRight: () => now + 1, ArrowUp: () => now + 1,
    ArrowLeft: () => Math.max(0, now - 1), ArrowDown: () => Math.max(0, now - 1),
    PageUp: () => now + leap, PageDown: () => Math.max(0, now - leap),
    Home: () => 0, End: () => marks.length - 1, Escape: () => -1,
  };
  reader.addEventListener("keydown", event => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    go(keys[event.key]());
  });
  reader.addEventListener("focus", () => { if (now < 0 && reader.matches(":focus-visible")) go(0); });
  reader.addEventListener("blur", () => go(-1));
  for (const type of ["pointermove", "pointerdown"]) {
    reader.addEventListener(type, event => go(nearest(event)));
  }
  reader.addEventListener("pointerleave", event => {
    if (event.pointerType === "mouse") go(-1);
  });
}

for (const table of document.querySelectorAll("table[data-sortable]")) sortable(table);
for (const form of document.querySelectorAll("form[data-filters]")) filters(form);
for (const svg of document.querySelectorAll("svg[data-read]")) reading(svg);

document.addEventListener("play", event => {
  for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
}, true);

// What is folded away is printed too.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const one of folded) one.open = true;
});
addEventListener("afterprint", () => { for (const one of folded) one.open = false; });
})();
