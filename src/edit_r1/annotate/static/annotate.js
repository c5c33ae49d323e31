// The annotation page: a name, then pair after pair.

import { Refused, newId, pause, post, postAndLeave } from "./api.js";
import { Deck } from "./deck.js";
import { Outbox } from "./outbox.js";
import { Viewer } from "./viewer.js";

const NAME = "edit-r1:name";
const KEPT = 20; // answers that can be undone
const PAN = 0.15;
const PATIENCE = 3; // tries to load a pair's pictures before the page says that they do not come
const WORDS = { left: "left is better", right: "right is better", same: "same", skip: "skipped" };

const byId = (id) => document.getElementById(id);
const viewer = new Viewer(byId("panes"));
let outbox, deck;
let current = null; // the card in the panes, or the one that is being waited for
let visibleSince = null; // null while the pictures load
let deckFailed = false; // the last call for pairs went wrong, and the page says so
let keyAt = null; // when the key went down that still waits for its next pair
let history = [];
let answered = 0;
let total = 0;
let notice = "";

function remembered() {
  try {
    return localStorage.getItem(NAME) ?? "";
  } catch {
    return "";
  }
}

async function begin() {
  const name = remembered();
  if (name) await join(name);
  else welcome("");
}

function welcome(error) {
  byId("welcome").hidden = false;
  byId("join-error").textContent = error;
  byId("name").focus();
}

byId("join").addEventListener("submit", (event) => {
  event.preventDefault();
  join(byId("name").value);
});

async function join(given) {
  let task;
  for (;;) {
    try {
      task = await post("/api/join", { name: given });
      break;
    } catch (error) {
      if (error instanceof Refused) return welcome(error.message);
      state(error.message, true);
      await pause(1000);
    }
  }
  try {
    localStorage.setItem(NAME, task.name);
  } catch {
    // asked again next time
  }
  byId("welcome").hidden = true;
  byId("who").textContent = task.name;
  total = task.pairs;
  outbox = new Outbox(task.task, task.name, onOutbox, (reason) => {
    notice = `an answer was not taken: ${reason}`;
    state(notice, true);
  });
  state("");
  await outbox.sent(); // what an earlier page could not send: those pairs must not come again
  const busy = () => [...(current ? [current.pair] : []), ...outbox.pairs];
  deck = new Deck(task.task, task.name, busy, onDeck);
  deck.answered = task.answered;
  deck.fill();
}

function onOutbox(waiting, problem) {
  if (problem) state(`${waiting} ${waiting === 1 ? "answer waits" : "answers wait"}: ${problem}`, true);
  else if (!waiting) state(notice);
  if (!waiting && deck && !current) deck.nudge();
}

function onDeck() {
  if (deck.answered !== null) {
    answered = deck.answered + outbox.pairs.length;
    deck.answered = null;
    count();
  }
  if (!current) next(keyAt);
  const problem = !["filling", "finished", "waiting"].includes(deck.state);
  if (outbox.waiting) return; // what is said about waiting answers is more important
  if (problem) state(deck.state, true);
  else if (deckFailed) state(notice);
  deckFailed = problem;
}

function count() {
  byId("answered").textContent = `${answered} answered`;
  byId("total").textContent = `, ${total} pairs`;
}

function state(text, warn = false) {
  const place = byId("state");
  place.textContent = text;
  place.classList.toggle("warn", warn);
}

// Shows the next pair. stamp: when the key went down that asked for it, or null.
function next(stamp) {
  current = deck.take() ?? null;
  if (current) return show(stamp);
  keyAt = stamp;
  viewer.clear();
  byId("work").hidden = true;
  const done = deck.state === "finished";
  byId("pause").hidden = false;
  byId("pause-undo").hidden = !history.length;
  byId("pause-title").textContent = done ? "Done, thank you" : "One moment";
  byId("pause-text").textContent = done
    ? "There is nothing left for you to compare. All your answers are kept."
    : deck.state === "waiting"
      ? "Others are looking at the last pairs. If they leave some, those come here."
      : "Fetching the next pair.";
}

async function show(stamp) {
  const card = current;
  keyAt = visibleSince = null;
  byId("pause").hidden = true;
  byId("work").hidden = false;
  byId("instruction").textContent = card.instruction;
  checklist(card);
  if (!card.ready) {
    viewer.clear();
    byId("work").classList.add("loading");
    let told = false;
    await card.load((times) => {
      if (current !== card || times < PATIENCE || outbox.waiting || deckFailed) return;
      told = true;
      state("the pictures of this pair do not come: wait, or skip it", true);
    });
    if (current !== card) return;
    if (told) state(notice);
  }
  byId("work").classList.remove("loading");
  viewer.show(card);
  visibleSince = performance.now();
  // The second callback comes when the frame with the new pair has been drawn.
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      if (stamp !== null) performance.measure("edit-r1:next", { start: stamp, end: performance.now() });
    }),
  );
}

function answer(choice, stamp) {
  if (choice === "undo") return undo(stamp);
  if (!current || (visibleSince === null && choice !== "skip")) return;
  const card = current;
  const marks = (side) => (card.marks[side].some((mark) => mark !== null) ? card.marks[side] : null);
  const seconds = visibleSince === null ? null : Math.max(0, stamp - visibleSince) / 1000;
  const id = newId();
  const event = { kind: "answer", id, pair: card.pair, choice, seconds, left: marks("left"), right: marks("right") };
  outbox.add(event);
  history.push({ card, id });
  history = history.slice(-KEPT);
  answered += 1;
  count();
  notice = WORDS[choice];
  if (!card.ready) card.drop(); // skipped because its pictures do not come, which was said
  if (!card.ready || !byId("state").classList.contains("warn")) state(notice);
  next(stamp);
}

function undo(stamp) {
  const last = history.pop();
  if (!last) return state("nothing to undo on this page", false);
  outbox.add({ kind: "undo", id: newId(), answer: last.id });
  if (current) deck.putBack(current);
  current = last.card;
  answered -= 1;
  count();
  notice = "undone";
  state(notice);
  show(stamp);
}

function checklist(card) {
  const place = byId("checklist");
  const button = byId("toggle-checklist");
  const inside = place.contains(document.activeElement); // who works in the list by keys stays in it
  button.hidden = !card.principles.length;
  place.replaceChildren(
    ...card.principles.map((question, number) => {
      const line = document.createElement("div");
      line.className = "line";
      const text = document.createElement("span");
      text.className = "question";
      text.textContent = question;
      line.append(text, marksOf(card, "left", number), marksOf(card, "right", number));
      return line;
    }),
  );
  place.hidden = !card.principles.length || button.getAttribute("aria-pressed") !== "true";
  if (inside && !place.hidden) place.querySelector("button").focus();
}

function marksOf(card, side, number) {
  const group = document.createElement("span");
  group.className = "marks";
  group.setAttribute("role", "group");
  const label = side === "left" ? "Left" : "Right";
  group.append(`${label} `);
  for (const [value, sign, word] of [[1, "✓", "yes"], [0, "✗", "no"]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.value = value;
    button.textContent = sign;
    button.setAttribute("aria-label", `${label}: ${word}`);
    button.setAttribute("aria-pressed", card.marks[side][number] === value);
    button.addEventListener("click", () => {
      card.marks[side][number] = card.marks[side][number] === value ? null : value;
      for (const one of group.querySelectorAll("button")) {
        one.setAttribute("aria-pressed", card.marks[side][number] === Number(one.dataset.value));
      }
    });
    group.append(button);
  }
  return group;
}

function toggleChecklist() {
  const button = byId("toggle-checklist");
  if (button.hidden) return;
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", on);
  byId("checklist").hidden = !on;
  if (on) byId("checklist").querySelector("button")?.focus();
}

function toggleDifference() {
  byId("difference").setAttribute("aria-pressed", viewer.toggleDifference());
}

// Buttons. A pointer leaves no focus behind, so that the space bar stays the blink key.
for (const button of document.querySelectorAll("#choices button")) {
  button.addEventListener("click", (event) => answer(button.dataset.choice, event.timeStamp));
}
byId("difference").addEventListener("click", toggleDifference);
byId("zoom-in").addEventListener("click", () => viewer.zoomIn());
byId("zoom-out").addEventListener("click", () => viewer.zoomOut());
byId("fit").addEventListener("click", () => viewer.fit());
byId("toggle-checklist").addEventListener("click", toggleChecklist);
byId("pause-undo").addEventListener("click", (event) => undo(event.timeStamp));
byId("open-keys").addEventListener("click", () => byId("keys").showModal());
byId("close-keys").addEventListener("click", () => byId("keys").close());
byId("rename").addEventListener("click", () => {
  localStorage.removeItem(NAME);
  location.reload();
});
document.addEventListener("click", (event) => {
  if (event.detail > 0) event.target.closest("#work button, .bar button")?.blur();
});
const blink = byId("blink");
blink.addEventListener("pointerdown", (event) => {
  blink.setPointerCapture(event.pointerId);
  viewer.blink(true);
});
for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) blink.addEventListener(end, () => viewer.blink(false));
blink.addEventListener("contextmenu", (event) => event.preventDefault());

// Keys.
const CHOICES = {
  ArrowLeft: "left", 1: "left", ArrowRight: "right", 3: "right", ArrowDown: "same", 2: "same",
  ArrowUp: "skip", k: "skip", u: "undo", Backspace: "undo",
};
const MOVES = { ArrowLeft: [PAN, 0], ArrowRight: [-PAN, 0], ArrowUp: [0, PAN], ArrowDown: [0, -PAN] };
const VIEWS = {
  x: toggleDifference, c: toggleChecklist, f: () => viewer.fit(), "+": () => viewer.zoomIn(), "=": () => viewer.zoomIn(),
  "-": () => viewer.zoomOut(), "?": () => byId("keys").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (!deck || byId("keys").open || event.target.closest("input")) return;
  // A key that is held is one answer. Held on a button, Enter would click it again and again.
  if (event.repeat && event.key === "Enter" && event.target.closest("#choices, #pause")) return event.preventDefault();
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if ((event.ctrlKey || event.metaKey) && key === "z") {
    event.preventDefault();
    if (!event.repeat) undo(event.timeStamp);
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.shiftKey && MOVES[key]) {
    event.preventDefault();
    viewer.move(...MOVES[key]);
  } else if (key === "b" || (key === " " && !event.target.closest("button, a"))) {
    event.preventDefault();
    viewer.blink(true);
  } else if (CHOICES[key]) {
    event.preventDefault();
    if (!event.repeat) answer(CHOICES[key], event.timeStamp);
  } else if (VIEWS[key]) {
    event.preventDefault();
    VIEWS[key]();
  }
});
document.addEventListener("keyup", (event) => {
  if (event.key === " " || event.key.toLowerCase() === "b") viewer.blink(false);
});
window.addEventListener("blur", () => viewer.blink(false));

window.addEventListener("pagehide", () => {
  if (!deck) return;
  outbox.leave();
  postAndLeave("/api/leave", { task: outbox.task, name: outbox.name });
});
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload(); // its pairs were given back
});

begin();
