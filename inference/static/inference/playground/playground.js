/** The playground: signing in, and what the keys and buttons do. */

import * as account from "./account.js";
import { chosen } from "./choices.js";
import { Conversation, forgetTotal } from "./conversation.js";
import { Failure } from "./failure.js";
import { watchTokens } from "./probabilities.js";
import { firstInvalid } from "./settings.js";
import { models } from "./words.js";

const element = (id) => document.getElementById(id);
const thread = element("thread");
const prompt = element("prompt");
const probabilities = element("probabilities");
const conversations = { chat: new Conversation("chat"), text: new Conversation("text") };
const wide = matchMedia("(min-width: 900px)");
let shown = conversations.chat;

function show(isSignedIn) {
  element("sign-in").hidden = isSignedIn;
  for (const id of ["bench", "choices", "account"]) element(id).hidden = !isSignedIn;
  element("playground").classList.toggle("at-work", isSignedIn);
  (isSignedIn ? prompt : element("key"))?.focus({ preventScroll: true });
}

function complain(message) {
  element("key-error").textContent = message;
  element("key-error").hidden = !message;
}

async function enter(secret) {
  complain("");
  element("key-send").disabled = true;
  try {
    await account.signIn(secret);
    await account.refresh();
    element("key").value = "";
    show(true);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (error.status === 401 || error.status === 403) account.signOut();
    show(false);
    complain(error.message);
  } finally {
    element("key-send").disabled = false;
  }
}

function leave(message = "") {
  account.signOut();
  for (const conversation of Object.values(conversations)) {
    conversation.stop();
    conversation.clear();
  }
  forgetTotal();
  prompt.value = "";
  welcome();
  show(false);
  complain(message);
}

/** The greeting of the kind of text that is chosen, until its first turn. */
function welcome() {
  for (const greeting of thread.querySelectorAll(".welcome")) {
    greeting.hidden = greeting.dataset.mode !== shown.kind || shown.turns.length > 0;
  }
}

function showRunning() {
  element("stop").hidden = !shown.isRunning;
  element("send").hidden = shown.isRunning;
  thread.setAttribute("aria-busy", String(shown.isRunning));
}

async function send(text) {
  if (shown.isRunning || !text.trim() || firstInvalid()) return;
  const asking = shown.ask(text, { sides: chosen(), isScored: probabilities.checked, onWriteOn: fill });
  const again = shown.turns.at(-1).again;
  again.addEventListener("click", () => send(shown.takeBack()));
  welcome();
  showRunning();
  const follower = follow();
  const refusal = await asking;
  follower.disconnect();
  showRunning();
  if (refusal) leave(refusal.message);
}

/** Keep the end of the thread in sight, unless the reader has scrolled away from it; on a phone the page scrolls. */
function follow() {
  const page = document.scrollingElement;
  const scroller = wide.matches ? thread : page;
  let isAtEnd = true;
  const onScroll = () => (isAtEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 120);
  const toEnd = () => isAtEnd && scroller.scrollTo({ top: scroller.scrollHeight });
  const source = scroller === page ? document : thread;
  source.addEventListener("scroll", onScroll);
  const observer = new MutationObserver(toEnd);
  observer.observe(thread, { childList: true, subtree: true, characterData: true });
  toEnd();
  return {
    disconnect() {
      toEnd();
      observer.disconnect();
      source.removeEventListener("scroll", onScroll);
    },
  };
}

function fill(text) {
  prompt.value = text;
  grow();
  prompt.focus();
}

function grow() {
  prompt.style.height = "auto";
  prompt.style.height = `${Math.min(prompt.scrollHeight + 2, innerHeight / 3)}px`;
}

function submit() {
  if (shown.isRunning) return;
  const text = shown.kind === "chat" ? prompt.value.trim() : prompt.value;
  if (!text.trim() || firstInvalid()) return;
  fill("");
  send(text);
}

element("key-form")?.addEventListener("submit", (event) => {
  event.preventDefault();
  enter(element("key").value.trim());
});
element("sign-out").addEventListener("click", () => leave());
element("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
element("stop").addEventListener("click", () => shown.stop());
element("clear").addEventListener("click", () => {
  shown.stop();
  shown.clear();
  welcome();
  prompt.focus();
});
prompt.addEventListener("input", grow);
prompt.addEventListener("keydown", (event) => {
  // Enter also ends the composition of a Korean syllable (229 in Safari), and that sends nothing.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  const isTouch = matchMedia("(pointer: coarse)").matches;
  if (isTouch && !event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  submit();
});
document.addEventListener("keydown", (event) => event.key === "Escape" && shown.stop());
for (const starter of thread.querySelectorAll(".starter")) {
  starter.addEventListener("click", () => fill(starter.textContent));
}
for (const radio of document.querySelectorAll("input[name=mode]")) {
  radio.addEventListener("change", () => {
    shown.stop();
    shown.show(false);
    shown = conversations[radio.value];
    shown.show(true);
    welcome();
    showRunning();
  });
}
probabilities.addEventListener("change", () => {
  element("legend").hidden = !probabilities.checked;
  const turns = Object.values(conversations).flatMap((conversation) => conversation.turns);
  for (const answer of turns.flatMap((turn) => turn.answers)) answer.showProbabilities(probabilities.checked);
});
watchTokens(thread);

const fold = () => (element("sampling").open = wide.matches);
wide.addEventListener("change", fold);
fold();
show(false);
if (account.key() && models.length) enter(account.key());
