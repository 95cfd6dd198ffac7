/** The errors of /v1, and of the way to it, as one class. */

import { knows, say } from "./words.js";

/** Why a call brought nothing; the message is for the reader. */
export class Failure extends Error {
  constructor({ status = 0, code = null, message = "", retryAfter = null }) {
    super(knows(code) ? say(code) : message);
    Object.assign(this, { status, code, retryAfter });
  }

  static from(response, body) {
    const { code = null, message = response.statusText } = body?.error ?? {};
    const seconds = Number.parseFloat(response.headers?.get("Retry-After") ?? "");
    return new Failure({ status: response.status, code, message, retryAfter: Number.isNaN(seconds) ? null : seconds });
  }

  get isQuota() {
    return this.code === "insufficient_quota";
  }

  /** Whether the same call may succeed soon. */
  get passes() {
    return this.retryAfter !== null && !this.isQuota && (this.status === 429 || this.status === 503);
  }
}
