/** One answer of one checkpoint: asked for, shown as it comes, and counted. */

import { complete } from "./api.js";
import { Failure } from "./failure.js";
import { TokenView } from "./probabilities.js";
import { KINDS, readChunk } from "./requests.js";
import { keepSeed } from "./settings.js";
import { say } from "./words.js";

const template = document.getElementById("answer-template");

export class Answer {
  text = "";
  usage = null;
  failure = null;
  #ending = null;
  #firstAt = null;

  constructor({ model, label, price }, kind) {
    Object.assign(this, { model, price, kind });
    this.element = template.content.firstElementChild.cloneNode(true);
    this.#part(".from").textContent = label;
    this.#tokens = new TokenView(document.createElement("span"));
    this.#part(".copy").addEventListener("click", ({ target }) => this.#copy(target));
  }

  #tokens;

  /** Whether there is a text that a later turn may build on. */
  get isUsable() {
    return this.text !== "";
  }

  /** Credits, where the server has told what it counted; null where it could not. */
  get cost() {
    if (this.failure) return 0;
    return this.usage && this.usage.total_tokens * this.price;
  }

  /**
   * Ask, and show what comes until it ends, fails or is stopped.
   * Turns that no longer fit the context are left out, the earliest first.
   */
  async write({ key, history, isScored, signal, onBegin, ...fields }) {
    this.element.setAttribute("aria-busy", "true");
    this.#notice(say("thinking"));
    this.#showPrompt(fields.asked);
    const kept = [...history];
    try {
      while (!(await this.#fits({ key, history: kept, isScored, signal, onBegin, ...fields }))) kept.shift();
      if (kept.length < history.length) this.#notice(say("turns_left_out"));
    } catch (error) {
      this.#end(error);
    }
    this.#tokens.finish();
    if (isScored) this.showProbabilities(true);
    this.element.removeAttribute("aria-busy");
    this.#showFigures(fields.seed);
  }

  /** Show the tokens' probabilities, where they were asked for, or the text alone. */
  showProbabilities(isShown) {
    const tokens = this.#tokens.element;
    const reply = this.#part(".reply");
    if (isShown && tokens.childElementCount) reply.replaceChildren(tokens);
    else reply.textContent = this.text;
  }

  async #fits({ key, isScored, signal, onBegin, ...fields }) {
    const body = { model: this.model, ...KINDS[this.kind].body(fields, isScored) };
    const onWait = (failure, seconds) => this.#notice(this.#waiting(failure, seconds));
    try {
      const chunks = complete(KINDS[this.kind].path, { key, body, signal, onWait, onBegin });
      for await (const chunk of chunks) this.#take(readChunk(this.kind, chunk), isScored);
    } catch (error) {
      const isTooLong = error instanceof Failure && error.code === "context_length_exceeded";
      if (!isTooLong || !fields.history.length) throw error;
      return false;
    }
    this.#notice(this.text ? "" : say("empty_answer"));
    return true;
  }

  #take({ text, tokens, ending, usage }, isScored) {
    if (text || tokens.length) {
      this.#firstAt ??= performance.now();
      this.#notice("");
    }
    this.text += text;
    this.#tokens.add(tokens);
    this.#ending = ending ?? this.#ending;
    this.usage = usage ?? this.usage;
    if (isScored) this.showProbabilities(true);
    else this.#part(".reply").append(text);
  }

  #end(error) {
    this.#notice("");
    if (error.name === "AbortError") {
      this.#ending = "stopped";
      return;
    }
    if (!(error instanceof Failure)) throw error;
    this.failure = error;
    const place = this.#part(".failure");
    place.textContent = error.message;
    place.hidden = false;
  }

  #showPrompt(asked) {
    if (this.kind === "text") this.#part(".prefix").textContent = asked;
  }

  #showFigures(seed) {
    const endings = { stop: "finish_stop", length: "finish_length", stopped: "stopped" };
    const figures = [this.#ending && say(endings[this.#ending] ?? "finish_stop")];
    if (this.usage) figures.unshift(this.#counted(), this.#speed());
    this.#part(".figures").textContent = figures.filter(Boolean).join(" · ");
    const button = this.#part(".seed");
    button.textContent = say("seed", { seed });
    button.addEventListener("click", () => keepSeed(seed));
    button.hidden = this.failure !== null;
    this.#part(".copy").hidden = !this.text;
    this.#part(".onward").hidden = this.kind !== "text" || !this.text;
  }

  #counted() {
    return say("tokens", { prompt: this.usage.prompt_tokens, completion: this.usage.completion_tokens });
  }

  #speed() {
    const seconds = (performance.now() - this.#firstAt) / 1000;
    const rate = this.usage.completion_tokens / seconds;
    return this.#firstAt === null || seconds < 0.05 ? "" : say("speed", { rate: rate.toFixed(rate < 10 ? 1 : 0) });
  }

  #notice(text) {
    const place = this.#part(".notice");
    place.textContent = text;
    place.hidden = !text;
  }

  #waiting({ status }, seconds) {
    if (status === 429) return say("waiting", { seconds });
    return this.model.includes("@") ? say("loading_model") : say("no_engine_yet", { seconds });
  }

  async #copy(button) {
    const before = button.textContent;
    await navigator.clipboard.writeText(this.text);
    button.textContent = say("copied");
    setTimeout(() => (button.textContent = before), 1500);
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }
}
