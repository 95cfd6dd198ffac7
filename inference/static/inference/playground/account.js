/** The reader's key, kept for this tab alone, and the credits behind it. */

import { get } from "./api.js";
import { Failure } from "./failure.js";
import { number, say } from "./words.js";

const STORED = "fai-playground-key";
const TRIES_UNTIL_SETTLED = 30;
const MILLISECONDS_BETWEEN_TRIES = 400;
const balance = document.getElementById("balance");
const held = document.getElementById("held");
let shown = null;

export const key = () => sessionStorage.getItem(STORED);

/** Credits that may be spent, as they were last heard of. */
export const available = () => shown ?? 0;

/** Keep the key if the server takes it. Raises: Failure. */
export async function signIn(secret) {
  if (!/^[\x21-\x7e]+$/.test(secret)) throw new Failure({ code: "invalid_api_key" });
  await get("/v1/key", { key: secret });
  sessionStorage.setItem(STORED, secret);
}

export function signOut() {
  sessionStorage.removeItem(STORED);
  shown = null;
  balance.textContent = "–";
  held.textContent = "";
}

/** Credits as the server has them, shown as well. Raises: Failure. */
export async function refresh() {
  const { data } = await get("/v1/credits", { key: key() });
  show(data);
  return data;
}

/** The credits once nothing is held any more, or when that takes too long. Raises: Failure. */
export async function settled() {
  for (let tries = TRIES_UNTIL_SETTLED; ; tries -= 1) {
    const credits = await refresh();
    if (!credits.held || !tries) return credits;
    await new Promise((resolve) => setTimeout(resolve, MILLISECONDS_BETWEEN_TRIES));
  }
}

function show(credits) {
  held.textContent = credits.held ? say("held", { credits: number(credits.held) }) : "";
  balance.classList.toggle("spending", credits.held > 0);
  count(shown ?? credits.available, credits.available);
  shown = credits.available;
}

/** Let the number run from one value to the other, for readers who like motion. */
function count(from, to) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches || document.hidden;
  const duration = still || from === to ? 0 : 450;
  const begun = performance.now();
  const step = (now) => {
    if (shown !== to) return;
    const part = duration ? Math.min(1, Math.max(0, (now - begun) / duration)) : 1;
    balance.textContent = number(Math.round(from + (to - from) * (1 - (1 - part) ** 3)));
    if (part < 1) requestAnimationFrame(step);
  };
  shown = to;
  step(begun);
}
