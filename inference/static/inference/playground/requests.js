/** Bodies for the two endpoints, and their chunks in one form: text, tokens with their probabilities, ending, usage. */

const NUM_CANDIDATES = 5;
const STREAM = { stream: true, stream_options: { include_usage: true } };

export const KINDS = {
  chat: {
    path: "/v1/chat/completions",
    body: ({ asked, history, instruction, ...fields }, isScored) => ({
      ...fields,
      ...STREAM,
      messages: messages({ asked, history, instruction }),
      ...(isScored ? { logprobs: true, top_logprobs: NUM_CANDIDATES } : {}),
    }),
    text: (choice) => choice.delta.content ?? "",
    tokens: (scores) => scores.content ?? [],
  },
  text: {
    path: "/v1/completions",
    body: ({ asked, history, instruction, ...fields }, isScored) => ({
      ...fields,
      ...STREAM,
      prompt: asked,
      ...(isScored ? { logprobs: NUM_CANDIDATES } : {}),
    }),
    text: (choice) => choice.text,
    tokens: columns,
  },
};

/** One chunk of either endpoint. */
export function readChunk(kind, { choices, usage }) {
  const [choice] = choices;
  if (!choice) return { text: "", tokens: [], ending: null, usage };
  const tokens = choice.logprobs ? KINDS[kind].tokens(choice.logprobs) : [];
  return { text: KINDS[kind].text(choice), tokens: tokens.map(readToken), ending: choice.finish_reason, usage };
}

function messages({ asked, history, instruction }) {
  const turns = history.flatMap((turn) => [
    { role: "user", content: turn.asked },
    { role: "assistant", content: turn.answered },
  ]);
  const first = instruction ? [{ role: "system", content: instruction }] : [];
  return [...first, ...turns, { role: "user", content: asked }];
}

/** Completions carry columns where chats carry rows. */
function columns({ tokens = [], token_logprobs: logprobs = [], top_logprobs: tops = [] }) {
  return tokens.map((token, index) => ({
    token,
    logprob: logprobs[index],
    top_logprobs: Object.entries(tops?.[index] ?? {}).map(([other, logprob]) => ({ token: other, logprob })),
  }));
}

function readToken({ token, bytes, logprob, top_logprobs: tops }) {
  const top = (tops ?? []).map((row) => ({ text: row.token, bytes: bytesOf(row), share: Math.exp(row.logprob) }));
  return {
    text: token,
    bytes: bytesOf({ token, bytes }),
    share: Math.exp(logprob ?? 0),
    top: top.sort((one, other) => other.share - one.share),
  };
}

/** A token may be part of a letter: its bytes, where the API gives them or spells them as bytes:\xea\xb0. */
function bytesOf({ token, bytes }) {
  if (bytes) return Uint8Array.from(bytes);
  if (!token.startsWith("bytes:")) return new TextEncoder().encode(token);
  const spelled = [...token.matchAll(/\\x([0-9a-f]{2})/g)];
  return Uint8Array.from(spelled.map(([, digits]) => Number.parseInt(digits, 16)));
}
