// Calls of the server. A call that may be made again throws `Unreachable`; one that never will succeed throws `Refused`.

export class Unreachable extends Error {}
export class Refused extends Error {}

const TIMEOUT_MS = 10_000;

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch (error) {
    throw new Unreachable(`the server does not answer (${error.message})`);
  }
  let document;
  try {
    document = await response.json();
  } catch {
    throw new Unreachable(`the server answered ${response.status} without JSON`);
  }
  if (response.ok) return document;
  const reason = document.error ?? `the server answered ${response.status}`;
  const temporary = response.status >= 500 || response.status === 408 || response.status === 429;
  throw temporary ? new Unreachable(reason) : new Refused(reason);
}

export const get = (path) => call(path, {});

export const post = (path, body) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

// For a page that is being left: nobody waits for the answer.
export const postAndLeave = (path, body) => {
  fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), keepalive: true })
    .catch(() => {});
};

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// crypto.randomUUID is missing where a page comes by plain http from another machine.
export const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
