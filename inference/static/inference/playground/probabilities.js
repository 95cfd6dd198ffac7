/** Tokens coloured by how likely they were; pointing at one shows what else might have stood there. */

import { say } from "./words.js";

const STEPS = [0.05, 0.2, 0.5, 0.8];
const candidates = document.getElementById("candidates");
const decoder = new TextDecoder("utf-8", { fatal: true });

/** Shows tokens in an element as they come; a letter may need several tokens. */
export class TokenView {
  #waiting = [];

  constructor(element) {
    this.element = element;
  }

  add(tokens) {
    for (const token of tokens) {
      if (this.#waiting.length && !goesOn(token)) this.#show();
      this.#waiting.push(token);
      if (decode(this.#waiting) !== null) this.#show();
    }
  }

  /** Show what waits for bytes that will not come. */
  finish() {
    if (this.#waiting.length) this.#show();
  }

  #show() {
    const text = decode(this.#waiting) ?? "\u{fffd}";
    const span = document.createElement("span");
    const share = this.#waiting.reduce((product, token) => product * token.share, 1);
    span.className = "token";
    span.dataset.likely = String(STEPS.filter((step) => share >= step).length);
    span.textContent = text.replaceAll("\n", "⏎\n");
    span.tabIndex = this.element.childElementCount ? -1 : 0;
    span.setAttribute("aria-description", say("probability", { percent: percent(share) }));
    span.tokens = this.#waiting;
    this.#waiting = [];
    this.element.append(span);
  }
}

function decode(tokens) {
  try {
    return decoder.decode(Uint8Array.from(tokens.flatMap((token) => [...token.bytes])));
  } catch {
    return null;
  }
}

/** Whether a token begins within a letter that needs several: so begin the later bytes of one in UTF-8. */
const goesOn = ({ bytes }) => bytes.length > 0 && (bytes[0] & 0xc0) === 0x80;

/** What stands for a token that is no whole letter. */
const spell = (token) => [...token.bytes].map((byte) => `‹${byte.toString(16).padStart(2, "0")}›`).join("");

const percent = (share) => (share >= 0.0995 ? Math.round(100 * share) : (100 * share).toFixed(1));

function point(span) {
  candidates.replaceChildren(...span.tokens.map(table));
  candidates.showPopover();
  const place = span.getBoundingClientRect();
  const box = candidates.getBoundingClientRect();
  const left = Math.max(8, Math.min(place.left, innerWidth - box.width - 8));
  const below = place.bottom + 6;
  candidates.style.left = `${left}px`;
  candidates.style.top = `${below + box.height > innerHeight ? Math.max(8, place.top - box.height - 6) : below}px`;
}

function table(token) {
  const rows = token.top.some((row) => row.text === token.text) ? token.top : [...token.top, token];
  const list = document.createElement("ol");
  list.append(...rows.map((row) => line(row, row.text === token.text)));
  return list;
}

function line(row, isTaken) {
  const item = document.createElement("li");
  const [text, meter, share] = ["code", "meter", "span"].map((name) => document.createElement(name));
  text.textContent = (decode([row]) ?? spell(row)).replaceAll("\n", "⏎").replaceAll(" ", "␣") || "∅";
  meter.value = row.share;
  share.textContent = `${percent(row.share)}%`;
  item.classList.toggle("taken", isTaken);
  item.append(text, meter, share);
  return item;
}

const hide = () => candidates.matches(":popover-open") && candidates.hidePopover();

/** Let pointer and arrow keys walk over the tokens within an element. */
export function watchTokens(element) {
  element.addEventListener("pointerover", ({ target }) => (target.matches(".token") ? point(target) : hide()));
  element.addEventListener("pointerleave", hide);
  element.addEventListener("focusin", ({ target }) => target.matches(".token") && point(target));
  element.addEventListener("focusout", hide);
  element.addEventListener("scroll", hide);
  element.addEventListener("keydown", (event) => {
    const next = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    if (!next || !event.target.matches(".token")) return;
    event.preventDefault();
    event.target[next]?.focus();
  });
}
