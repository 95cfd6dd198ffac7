/** What the page was served with: texts in the reader's language, models, and how numbers are written. */

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const texts = read("playground-texts");
const language = document.documentElement.lang;
const grouped = new Intl.NumberFormat(language);

export const models = document.getElementById("key-form") ? read("playground-models") : [];

export const number = (value) => grouped.format(value);

/** The text of that name with its {places} filled in. */
export function say(name, places = {}) {
  return texts[name].replace(/\{(\w+)\}/g, (whole, place) => String(places[place] ?? whole));
}

export const knows = (name) => name in texts;
