/** Server-sent events of a body that is still arriving. */

import { Failure } from "./failure.js";

/** The parsed data of each event, up to [DONE]. Raises: Failure where the body ends without it. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Failure({ code: "broken_stream" });
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const data of blocks.map(dataOf).filter(Boolean)) {
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  } catch (error) {
    if (error instanceof TypeError) throw new Failure({ code: "broken_stream" });
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The data lines of one event; a comment has none. */
function dataOf(block) {
  const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).trimStart()).join("\n");
}
