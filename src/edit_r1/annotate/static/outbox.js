// What the server has not acknowledged yet. Every event is in localStorage before the next pair is shown, and leaves it
// only when the server says that it is on its disk. Sending twice is harmless: the server knows an event by its id.

import { Refused, pause, post, postAndLeave } from "./api.js";

const BATCH = 200;
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 4000;

export class Outbox {
  // onChange(waiting, problem): after every change; problem is a text or null. onRefused(reason): an answer was dropped.
  constructor(task, name, onChange, onRefused) {
    this.task = task;
    this.name = name;
    this.onChange = onChange;
    this.onRefused = onRefused;
    this.prefix = `edit-r1:${task}:`;
    this.entries = this.#stored(); // those of a page that was closed, other names' too
    this.last = this.entries.length ? this.entries.at(-1).key : "";
    this.sending = null;
    this.stuck = null;
  }

  get waiting() {
    return this.entries.length;
  }

  // Pairs that have an answer on its way.
  get pairs() {
    return this.entries.filter(({ name, event }) => name === this.name && event.pair).map(({ event }) => event.pair);
  }

  add(event) {
    const entry = { key: this.#nextKey(), name: this.name, event };
    this.entries.push(entry);
    try {
      localStorage.setItem(entry.key, JSON.stringify({ name: entry.name, event }));
    } catch {
      this.stuck = "this browser keeps nothing: do not close the page while answers wait";
    }
    this.onChange(this.waiting, this.stuck);
    this.send();
  }

  // Sends until nothing waits; resolves then.
  send() {
    this.sending ??= this.#sendAll().finally(() => {
      this.sending = null;
    });
    return this.sending;
  }

  // Resolves when nothing of this page's own name waits. Events of other names may be refused for long: somebody who is
  // not known to a server that was restored from a copy must not keep others from working in the same browser.
  async sent() {
    this.send();
    while (this.entries.some(({ name }) => name === this.name)) await pause(FIRST_WAIT_MS / 5);
  }

  // The page is being left: one more try that outlives it. What it sends is sent again next time.
  leave() {
    for (const { name, events } of this.#batches().slice(0, 1)) {
      postAndLeave("/api/answers", { task: this.task, name, events: events.map(({ event }) => event) });
    }
  }

  async #sendAll() {
    let wait = FIRST_WAIT_MS;
    const refused = new Set(); // names of whom the server takes nothing now
    while (this.entries.length) {
      const batch = this.#batches().find(({ name }) => !refused.has(name));
      if (!batch) {
        refused.clear(); // kept: somebody may mend the cause
        await pause(LONGEST_WAIT_MS);
        continue;
      }
      const { name, events } = batch;
      try {
        const outcome = await post("/api/answers", { task: this.task, name, events: events.map(({ event }) => event) });
        for (const { key } of events) this.#forget(key);
        const sent = new Set(events.map(({ key }) => key));
        this.entries = this.entries.filter(({ key }) => !sent.has(key));
        for (const reason of Object.values(outcome.refused)) this.onRefused(reason);
        wait = FIRST_WAIT_MS;
        this.onChange(this.waiting, this.stuck);
      } catch (error) {
        this.onChange(this.waiting, error.message);
        if (error instanceof Refused) {
          refused.add(name);
          continue;
        }
        await pause(wait);
        wait = Math.min(2 * wait, LONGEST_WAIT_MS);
      }
    }
  }

  // Runs of events of one name, in order: a request speaks for one annotator.
  #batches() {
    const batches = [];
    for (const entry of this.entries) {
      const open = batches.at(-1);
      if (open && open.name === entry.name && open.events.length < BATCH) open.events.push(entry);
      else batches.push({ name: entry.name, events: [entry] });
    }
    return batches;
  }

  #stored() {
    const entries = [];
    try {
      for (const key of Object.keys(localStorage)) {
        if (!key.startsWith(this.prefix)) continue;
        try {
          entries.push({ key, ...JSON.parse(localStorage.getItem(key)) });
        } catch {
          localStorage.removeItem(key); // torn by a crash while it was written: the answer was never given
        }
      }
    } catch {
      // no storage at all: `add` tells
    }
    return entries.sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  #nextKey() {
    const now = `${this.prefix}${String(Date.now()).padStart(15, "0")}-`;
    let number = 0;
    if (this.last >= now) {
      // Within one millisecond, or after the clock was set back: count on from the last key.
      const [time, count] = this.last.slice(this.prefix.length).split("-");
      number = Number(count) + 1;
      return (this.last = `${this.prefix}${time}-${String(number).padStart(6, "0")}-${crypto.getRandomValues(new Uint32Array(1))[0]}`);
    }
    return (this.last = `${now}${String(number).padStart(6, "0")}-${crypto.getRandomValues(new Uint32Array(1))[0]}`);
  }

  #forget(key) {
    try {
      localStorage.removeItem(key);
    } catch {
      // as in `add`
    }
  }
}
