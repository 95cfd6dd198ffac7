/** Turns of one kind, chat or text: each side's answers build on its own earlier ones. */

import * as account from "./account.js";
import { Answer } from "./answer.js";
import { Failure } from "./failure.js";
import { instruction, sampling } from "./settings.js";
import { number, say } from "./words.js";

const MAX_SEED = 2 ** 31 - 1;
const template = document.getElementById("turn-template");
const thread = document.getElementById("thread");
const total = { tokens: 0, credits: 0 };

export class Conversation {
  turns = [];
  #controller = null;

  constructor(kind) {
    this.kind = kind;
  }

  get isRunning() {
    return this.#controller !== null;
  }

  stop() {
    this.#controller?.abort();
  }

  clear() {
    for (const turn of this.turns) turn.element.remove();
    this.turns = [];
  }

  show(isShown) {
    for (const { element } of this.turns) element.hidden = !isShown;
  }

  /** Ask all sides and wait for what they answer. */
  async ask(asked, { sides, isScored, onWriteOn }) {
    const turn = this.#open(asked, sides, onWriteOn);
    this.#controller = new AbortController();
    const before = account.available();
    const { seed = Math.floor(Math.random() * MAX_SEED), ...settings } = sampling();
    const fields = { ...settings, seed, asked, instruction: instruction(), isScored, signal: this.#controller.signal };
    const options = { ...fields, key: account.key(), onBegin: () => account.refresh().catch(ignoreFailure) };
    const earlier = this.turns.slice(0, -1);
    await Promise.all(turn.answers.map((answer, side) => answer.write({ ...options, history: historyOf(earlier, side) })));
    this.#controller = null;
    turn.again.hidden = false;
    void settle(turn, before);
    return turn.answers.find((answer) => answer.failure?.status === 401)?.failure;
  }

  /** Take the last turn back and return what was asked. */
  takeBack() {
    const { asked, element } = this.turns.pop();
    element.remove();
    return asked;
  }

  #open(asked, sides, onWriteOn) {
    const element = template.content.firstElementChild.cloneNode(true);
    const answers = sides.map((side) => new Answer(side, this.kind));
    const turn = { asked, element, answers, again: element.querySelector(".again") };
    element.dataset.kind = this.kind;
    element.querySelector(".asked-text").textContent = asked;
    element.querySelector(".answers").append(...answers.map((answer) => answer.element));
    if (this.kind === "text") for (const answer of answers) offerWritingOn(answer, asked, onWriteOn);
    for (const { again } of this.turns) again.remove();
    this.turns.push(turn);
    thread.append(element);
    return turn;
  }
}

/** A side that had not been asked before goes on from what the first one said. */
function historyOf(turns, side) {
  const answered = turns.map(({ asked, answers }) => ({ asked, answer: answers[side] ?? answers[0] }));
  return answered.filter(({ answer }) => answer.isUsable).map(({ asked, answer }) => ({ asked, answered: answer.text }));
}

function offerWritingOn(answer, asked, onWriteOn) {
  const button = answer.element.querySelector(".onward");
  button.addEventListener("click", () => onWriteOn(asked + answer.text));
}

/** What the turn cost: by the server's count, or by the balance where a stopped answer was not counted. */
async function settle(turn, before) {
  const place = turn.element.querySelector(".cost");
  place.textContent = say("settling");
  const settled = account.settled().catch(ignoreFailure);
  const costs = turn.answers.map((answer) => answer.cost);
  const isExact = !costs.includes(null);
  const credits = isExact ? costs.reduce((sum, cost) => sum + cost, 0) : before - ((await settled)?.available ?? before);
  const name = credits <= 0 ? "nothing_paid" : isExact ? "turn_cost" : "turn_cost_about";
  place.textContent = say(name, { credits: number(credits) });
  total.credits += credits;
  total.tokens += turn.answers.reduce((sum, { usage }) => sum + (usage?.total_tokens ?? 0), 0);
  showTotal();
}

export function showTotal() {
  const isUsed = total.tokens || total.credits;
  const text = isUsed ? say("session", { tokens: number(total.tokens), credits: number(total.credits) }) : "";
  document.getElementById("session").textContent = text;
}

/** Begin the count of this tab anew. */
export function forgetTotal() {
  Object.assign(total, { tokens: 0, credits: 0 });
  showTotal();
}

function ignoreFailure(error) {
  if (!(error instanceof Failure)) throw error;
}
