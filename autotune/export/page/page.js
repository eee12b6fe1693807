// The page that classifies pictures. source.js is server.js, which asks `autotune serve`, or local.js, which computes here.
import { AT_ONCE, classify, describe, TokenNeeded, useToken, WHERE } from "./source.js";

const SHOWN = 12; // labels in the heading

const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const queue = [];
let running = 0;

function askToken(problem) {
  $("ask-token").hidden = false;
  $("drop").hidden = true;
  $("wrong-token").textContent = problem;
  $("token").focus();
}

async function start() {
  let model;
  try {
    model = await describe();
  } catch (error) {
    if (error instanceof TokenNeeded) askToken(error.message);
    else $("trouble").textContent = `${error.message} Reload the page to try again.`;
    return;
  }
  document.title = `${model.study} - autotune`;
  $("name").textContent = model.study;
  const others = model.labels.length - SHOWN;
  $("about").textContent = `${model.labels.length} labels: ${model.labels.slice(0, SHOWN).join(", ")}${
    others > 0 ? ` and ${others} more` : ""}. ${
    model.threshold ? `Below ${percent(model.threshold)} the answer is "unknown".` : ""}`;
  $("limits").textContent = model.limits
    ? `Up to ${Math.floor(model.limits.bytes / 1e6)} MB and ${Math.floor(model.limits.pixels / 1e6)} megapixels each`
    : "";
  $("ask-token").hidden = true;
  $("drop").hidden = false;
  if (navigator.maxTouchPoints) {
    $("photograph").hidden = false;
    $("drop-title").textContent = "Which pictures?";
  }
}

function add(files) {
  const cards = document.createDocumentFragment();
  for (const file of files) {
    const card = $("answer").content.firstElementChild.cloneNode(true);
    const image = card.querySelector("img");
    image.onerror = () => image.remove(); // no picture, or a format that this browser does not know
    image.onload = () => URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(file);
    card.querySelector(".name").textContent = file.name;
    card.querySelector(".label").textContent = "Waiting";
    card.classList.add("waiting");
    cards.append(card);
    queue.push({ file, card });
  }
  $("answers").prepend(cards);
  $("bar").hidden = $("answers").childElementCount === 0;
  next();
}

function next() {
  while (running < AT_ONCE && queue.length) {
    running += 1;
    send(queue.shift()).finally(() => {
      running -= 1;
      next();
    });
  }
}

async function send({ file, card }) {
  try {
    show(card, await classify(file));
  } catch (error) {
    if (error instanceof TokenNeeded) askToken(error.message);
    show(card, { error: error.message });
  }
}

function show(card, found) {
  card.classList.remove("waiting");
  const set = (name, text) => (card.querySelector(name).textContent = text);
  if (found.error) {
    card.classList.add("failed");
    set(".label", "Not read");
    set(".note", found.error);
  } else {
    const isUnknown = found.label !== found.top[0].label;
    card.classList.toggle("unknown", isUnknown);
    set(".label", found.label);
    set(".probability", isUnknown ? "" : percent(found.probability));
    const why = found.distance > 1 ? "It looks like nothing that was learned." : "No label is probable enough.";
    set(".note", isUnknown ? `${why} The likeliest:` : "");
    card.querySelector("dl").append(...found.top.map(row));
    set(".time", `${found.milliseconds.toFixed(0)} ms`);
  }
  $("status").textContent = `${card.querySelector(".name").textContent}: ${found.error ?? found.label}`;
}

function row({ label, probability }) {
  const line = document.createElement("div");
  const name = document.createElement("dt");
  const bar = document.createElement("progress");
  const value = document.createElement("dd");
  name.textContent = name.title = label;
  bar.value = probability;
  bar.setAttribute("aria-hidden", "true");
  value.textContent = percent(probability);
  line.append(name, bar, value);
  return line;
}

for (const [button, input] of [["choose", "files"], ["photograph", "camera"]]) {
  $(button).onclick = () => $(input).click();
  $(input).onchange = () => {
    add($(input).files);
    $(input).value = ""; // so that the same picture can be chosen again
  };
}
$("clear").onclick = () => {
  queue.length = 0;
  $("answers").replaceChildren();
  $("bar").hidden = true;
  $("choose").focus();
};
$("ask-token").onsubmit = (event) => {
  event.preventDefault();
  useToken($("token").value.trim());
  start();
};
document.addEventListener("paste", (event) => {
  if (!$("drop").hidden && event.clipboardData.files.length) add(event.clipboardData.files);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (!$("drop").hidden) add(event.dataTransfer.files);
});

$("where").innerHTML = WHERE;
start();
