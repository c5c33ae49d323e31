// The next pairs, with their pictures loaded and decoded before they are needed.

import { Unreachable, pause, post } from "./api.js";

const AHEAD = 6;
const RETRY_MS = 1000;
const OTHERS_MS = 4000;

// One pair: three layers of pictures that are put into the panes as they are.
export class Card {
  constructor(pair) {
    Object.assign(this, pair); // pair, source, left, right, instruction, principles
    this.marks = { left: pair.principles.map(() => null), right: pair.principles.map(() => null) };
    this.ready = false;
    this.loading = null;
    this.load();
  }

  // Resolves when the pictures are there, or the card was dropped. onFailure(times): they did not come.
  load(onFailure = () => {}) {
    this.dropped = false;
    this.onFailure = onFailure;
    this.loading ??= this.#load().finally(() => (this.loading = null));
    return this.loading;
  }

  // Nobody waits for it any more.
  drop() {
    this.dropped = true;
  }

  async #load() {
    for (let times = 1; !this.ready && !this.dropped; times += 1) {
      this.layers = {
        source: layer([image(this.source, "edit")]),
        left: layer([image(this.left, "edit"), image(this.source, "instead")]),
        right: layer([image(this.right, "edit"), image(this.source, "instead")]),
      };
      const images = Object.values(this.layers).flatMap((part) => [...part.children]);
      try {
        await Promise.all(images.map((one) => one.decode()));
        for (const one of images) one.classList.toggle("pixels", one.naturalWidth < 256);
        this.ready = true;
      } catch {
        this.onFailure(times);
        await pause(RETRY_MS); // the server is away, or has lost a picture: the same ones again
      }
    }
  }
}

function image(id, kind) {
  const element = new Image();
  element.className = kind;
  element.alt = "";
  element.draggable = false;
  element.decoding = "sync"; // decoded already; never paint a frame without it
  element.src = `/pictures/${id}`;
  return element;
}

function layer(images) {
  const element = document.createElement("div");
  element.className = "layer";
  element.append(...images);
  return element;
}

export class Deck {
  // having(): numbers of pairs that are shown, or whose answers are on their way. onChange(): cards or state changed.
  constructor(task, name, having, onChange) {
    this.task = task;
    this.name = name;
    this.having = having;
    this.onChange = onChange;
    this.cards = [];
    this.state = "filling"; // filling, waiting (others look at the last pairs), finished, or a problem's text
    this.answered = null;
    this.filling = false;
    this.wake = () => {};
  }

  // The next card, or undefined; asks for more.
  take() {
    const card = this.cards.shift();
    this.fill();
    return card;
  }

  // Asks again now, where `fill` would wait for others.
  nudge() {
    this.wake();
    this.fill();
  }

  putBack(card) {
    this.cards.unshift(card);
  }

  async fill() {
    if (this.filling) return;
    this.filling = true;
    try {
      while (this.cards.length < AHEAD) {
        // Each once: an answer that was given, undone and given again waits twice.
        const having = [...new Set([...this.having(), ...this.cards.map(({ pair }) => pair)])];
        const body = { task: this.task, name: this.name, having, count: AHEAD - this.cards.length };
        let got;
        try {
          got = await post("/api/next", body);
        } catch (error) {
          this.state = error.message;
          this.onChange();
          if (!(error instanceof Unreachable)) return;
          await pause(RETRY_MS);
          continue;
        }
        const known = new Set([...this.having(), ...this.cards.map(({ pair }) => pair)]);
        const fresh = got.pairs.filter(({ pair }) => !known.has(pair));
        this.cards.push(...fresh.map((pair) => new Card(pair)));
        this.answered = got.answered;
        this.state = got.finished ? "finished" : got.pairs.length ? "filling" : "waiting";
        this.onChange();
        if (got.finished) return;
        if (!got.pairs.length) await Promise.race([pause(OTHERS_MS), new Promise((wake) => (this.wake = wake))]);
      }
    } finally {
      this.filling = false;
    }
  }
}
