// The figures of /api/progress, again every five seconds.

import { get, pause } from "./api.js";

const EVERY_MS = 5000;
const ENOUGH = 20; // answers; fewer are not marked
const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(0)} %`;
const seconds = (value) => (value === null ? "–" : `${value.toFixed(value < 10 ? 1 : 0)} s`);
const range = (ci, format) => (ci ? `[${format(ci[0])}, ${format(ci[1])}]` : "");
const estimate = (value) => (value === null ? "–" : `${percent(value.mean)} ${range(value.ci95, percent)}`.trim());

function ago(value) {
  if (value === null) return "–";
  if (value < 90) return `${value.toFixed(0)} s ago`;
  if (value < 5400) return `${(value / 60).toFixed(0)} min ago`;
  return `${(value / 3600).toFixed(0)} h ago`;
}

function tile(value, label, interval = "") {
  const element = document.createElement("div");
  element.className = "tile";
  const number = document.createElement("b");
  number.textContent = value;
  const text = document.createElement("span");
  text.textContent = label;
  element.append(number, Object.assign(document.createElement("span"), { textContent: interval }), text);
  return element;
}

function alpha(value, label) {
  const two = (end) => end.toFixed(2);
  return tile(value.alpha === null ? "–" : two(value.alpha), label, range(value.ci95, two));
}

function gold({ right, asked, better_than_guessing: better }) {
  if (!asked) return ["–", false];
  const told = better === null ? ", too few to tell" : better ? "" : ", like guessing";
  return [`${right} of ${asked}${told}`, better === false];
}

// Of a few answers that agree by chance the interval is too narrow.
const onOneSide = (left) => left?.ci95 && left.n >= ENOUGH && (left.ci95[0] > 0.5 || left.ci95[1] < 0.5);

const COLUMNS = [
  ["Name", (one) => one.name],
  ["Answers", (one) => one.answers],
  ["Skipped", (one) => one.skipped],
  ["Undone", (one) => one.undone],
  ["Median time", (one) => seconds(one.median_seconds)],
  ["Last answer", (one) => ago(one.idle_seconds)],
  ["Same", (one) => (one.same_share === null ? "–" : percent(one.same_share))],
  ["Left", (one) => estimate(one.left), (one) => onOneSide(one.left)],
  ["Others", (one) => estimate(one.others)],
  ["Gold", (one) => gold(one.gold)[0], (one) => gold(one.gold)[1]],
];

function table(annotators) {
  const head = document.createElement("tr");
  for (const [title] of COLUMNS) head.append(Object.assign(document.createElement("th"), { textContent: title, scope: "col" }));
  const rows = annotators.map((one) => {
    const row = document.createElement("tr");
    for (const [, text, odd] of COLUMNS) {
      row.append(Object.assign(document.createElement("td"), { textContent: text(one), className: odd?.(one) ? "warn" : "" }));
    }
    return row;
  });
  byId("annotators").replaceChildren(head, ...rows);
}

function show(figures) {
  const wanted = figures.pairs * figures.wanted;
  byId("done").value = wanted ? 1 - figures.open / wanted : 0;
  const minutes = figures.per_minute > 0 ? Math.ceil(figures.open / figures.per_minute) : null;
  const left = minutes === null ? "–" : minutes < 90 ? `${minutes} min` : `${(minutes / 60).toFixed(0)} h`;
  byId("tiles").replaceChildren(
    tile(`${figures.complete} of ${figures.pairs}`, `pairs with ${figures.wanted} answers`),
    tile(figures.answers, "answers that count"),
    tile(figures.open, "answers still wanted"),
    tile(figures.per_minute.toFixed(1), "answers a minute, last 10 min"),
    tile(seconds(figures.median_seconds), "median time of an answer"),
    tile(left, "left at this pace"),
  );
  const { raw } = figures.agreement;
  byId("agreement").replaceChildren(
    tile(raw ? percent(raw.mean) : "–", "raw agreement", range(raw?.ci95, percent)),
    alpha(figures.agreement.alpha_nominal, "Krippendorff’s alpha, nominal"),
    alpha(figures.agreement.alpha_ordinal, "Krippendorff’s alpha, ordinal"),
    tile(figures.agreement.alpha_nominal.units, "pairs compared"),
  );
  table(figures.annotators);
}

for (;;) {
  try {
    show(await get("/api/progress"));
    byId("problem").textContent = "";
  } catch (error) {
    byId("problem").textContent = error.message;
  }
  await pause(EVERY_MS);
}
