/** Calls of /v1 with the reader's key. */

import { events } from "./events.js";
import { Failure } from "./failure.js";

const MOST_SECONDS_BETWEEN_TRIES = 60;
const PATIENCE_MILLISECONDS = 120_000;

/** The body of a GET. Raises: Failure. */
export async function get(path, { key }) {
  return (await call(path, { key })).json();
}

/**
 * Chunks of one streamed completion, tried again for as long as the server says when.
 * `onWait(failure, seconds)` is called each second of a pause, `onBegin` when the credits are held.
 * Raises: Failure; DOMException once the signal aborts.
 */
export async function* complete(path, { key, body, signal, onWait, onBegin }) {
  const response = await begin(path, { key, body, signal, onWait });
  onBegin();
  for await (const chunk of events(response.body)) {
    if (chunk.error) throw new Failure(chunk.error);
    yield chunk;
  }
}

async function begin(path, { onWait, ...options }) {
  const deadline = performance.now() + PATIENCE_MILLISECONDS;
  for (;;) {
    try {
      return await call(path, options);
    } catch (failure) {
      if (!(failure instanceof Failure) || !failure.passes || performance.now() > deadline) throw failure;
      await pause(failure, { onWait, signal: options.signal });
    }
  }
}

async function call(path, { key, body, signal }) {
  const headers = { Authorization: `Bearer ${key}` };
  if (body) headers["Content-Type"] = "application/json";
  const options = { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure({ code: "network" });
  }
  if (response.ok) return response;
  throw Failure.from(response, await response.json().catch(() => null));
}

async function pause(failure, { onWait, signal }) {
  const seconds = Math.min(Math.max(1, Math.ceil(failure.retryAfter)), MOST_SECONDS_BETWEEN_TRIES);
  for (let left = seconds; left > 0; left -= 1) {
    onWait(failure, left);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    signal.throwIfAborted();
  }
}
