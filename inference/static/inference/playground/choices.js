/** Which experiment and which of its checkpoints answer. */

import { limitTokens } from "./settings.js";
import { models, number, say } from "./words.js";

const element = (id) => document.getElementById(id);
const experiment = element("experiment");
const compare = element("compare");
const sides = [element("left"), element("right")];

/** The sides that answer: name for the API, label for the reader, credits per token. */
export function chosen() {
  const model = current();
  const answering = compare.checked ? sides : sides.slice(0, 1);
  return answering.map((select) => ({
    model: select.value,
    label: `${model.title} · ${select.selectedOptions[0].textContent}`,
    price: model.price,
  }));
}

const current = () => models.find((model) => model.slug === experiment.value);

function nameOf({ number: round, loss }, isNewest) {
  const name = isNewest ? say("newest", { number: round }) : round === 0 ? say("untrained") : say("round", { number: round });
  return loss === null ? name : say("with_loss", { name, loss: loss.toFixed(3) });
}

/** The newest checkpoint goes by the experiment's name alone, so that it stays the newest. */
function offerCheckpoints() {
  const { slug, price, context, checkpoints } = current();
  for (const select of sides) {
    const options = checkpoints.map((row, index) => new Option(nameOf(row, !index), index ? `${slug}@${row.number}` : slug));
    select.replaceChildren(...options);
  }
  sides[1].selectedIndex = checkpoints.length - 1;
  const places = { credits: number(price), context: number(context) };
  element("price").textContent = say(price ? "price" : "free", places);
  limitTokens(context);
}

function showSides() {
  element("right-picker").hidden = !compare.checked;
  element("bench").classList.toggle("comparing", compare.checked);
}

if (models.length) {
  experiment.replaceChildren(...models.map((model) => new Option(model.title || model.slug, model.slug)));
  offerCheckpoints();
  showSides();
}
experiment.addEventListener("change", offerCheckpoints);
compare.addEventListener("change", showSides);
