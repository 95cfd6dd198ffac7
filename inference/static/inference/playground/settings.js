/** The sampling settings: number and slider of each in step, and the fields of a request that they stand for. */

const MAX_STOPS = 4;
const form = document.getElementById("settings");
const rows = [...form.querySelectorAll(".setting[data-name]")];
const stops = document.getElementById("stop-texts");
const instructions = document.getElementById("instructions");
const moods = [...form.querySelectorAll(".presets button")];
const field = (row) => row.querySelector("input[type=number]");

/** The fields of a request; what is left empty is left out. */
export function sampling() {
  const given = rows.filter((row) => field(row).value !== "" && field(row).validity.valid);
  const fields = Object.fromEntries(given.map((row) => [row.dataset.name, field(row).valueAsNumber]));
  const texts = stops.value.split("\n").filter(Boolean).slice(0, MAX_STOPS);
  // Fields at rest are left out: an engine need not know them all.
  for (const [name, rest] of Object.entries({ repetition_penalty: 1, frequency_penalty: 0, presence_penalty: 0 })) {
    if (fields[name] === rest) delete fields[name];
  }
  return texts.length ? { ...fields, stop: texts } : fields;
}

export const instruction = () => instructions.value.trim();

/** Use that seed from here on. */
export function keepSeed(seed) {
  set("seed", seed);
  rows.find((row) => row.dataset.name === "seed").scrollIntoView({ block: "nearest" });
}

/** An answer fits the model's context, and leaves half of it to what is asked unless the reader wants otherwise. */
export function limitTokens(context) {
  const row = rows.find((each) => each.dataset.name === "max_tokens");
  for (const input of row.querySelectorAll("input")) {
    input.max = context - 1;
    input.value = Math.min(input.valueAsNumber, Math.floor(context / 2));
  }
}

/** The first field that is out of its range, after its browser has said so; or none. */
export function firstInvalid() {
  const row = rows.find((each) => !field(each).validity.valid);
  row?.closest("details").setAttribute("open", "");
  if (row) field(row).reportValidity();
  return row;
}

function set(name, value) {
  for (const input of rows.find((row) => row.dataset.name === name).querySelectorAll("input")) input.value = value;
  mark();
}

/** Which mood the settings are, and which of them are not at their default. */
function mark() {
  const { temperature, top_p } = sampling();
  for (const mood of moods) {
    const { temperature: t, topP } = mood.dataset;
    mood.setAttribute("aria-pressed", String(Number(t) === temperature && Number(topP) === top_p));
  }
  for (const row of rows) row.classList.toggle("changed", field(row).value !== field(row).defaultValue);
}

form.addEventListener("input", ({ target }) => {
  const row = target.closest(".setting[data-name]");
  for (const input of row?.querySelectorAll("input") ?? []) if (input !== target) input.value = target.value;
  mark();
});
form.addEventListener("submit", (event) => event.preventDefault());
for (const mood of moods) {
  mood.addEventListener("click", () => {
    set("temperature", mood.dataset.temperature);
    set("top_p", mood.dataset.topP);
  });
}
document.getElementById("defaults").addEventListener("click", () => {
  form.reset();
  mark();
});
mark();
