// The page: strokes on the canvas, a picture of them, and what the network says to it.

import { SIDE, pictureOf } from "./picture.js";

const MODEL = "model.onnx";
const RUNTIME = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
const CLASSES = 10;
const PEN = 18; // of the drawing, in units of the canvas; the picture chooses its own

const paper = document.getElementById("paper");
const clear = document.getElementById("clear");
const status = document.getElementById("status");
const strokes = [];
let network = null; // once it is loaded
let running = false;
let drawings = 0; // counts strokes and clearings

/** An error whose message is for the user. */
class PageError extends Error {}

// ---- The network

async function fetchModel() {
  let response;
  try {
    response = await fetch(MODEL, { cache: "no-cache" });
  } catch {
    throw new PageError("The web server does not answer. Start it in this folder: python -m http.server");
  }
  if (response.status === 404) {
    throw new PageError(
      "There is no model.onnx beside this page. Make it: " +
        "iterand-compress export digits.seedmask --form packed --onnx model.onnx",
    );
  }
  if (!response.ok) throw new PageError(`model.onnx: the web server answers ${response.status}.`);
  return new Uint8Array(await response.arrayBuffer());
}

async function loadRuntime() {
  try {
    const ort = await import(`${RUNTIME}ort.wasm.min.mjs`);
    ort.env.wasm.numThreads = 1; // more need a page that is isolated from other origins
    ort.env.wasm.wasmPaths = RUNTIME;
    return ort;
  } catch {
    throw new PageError("onnxruntime-web is not installed. Run in this folder: npm install");
  }
}

/** A function from 64 pixels to ten logits; `bytes` is the size of the file. */
async function loadNetwork() {
  const [file, ort] = await Promise.all([fetchModel(), loadRuntime()]);
  let session;
  try {
    session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  } catch (error) {
    throw new PageError(`model.onnx: onnxruntime-web cannot load it: ${error.message}`);
  }
  const [input] = session.inputNames;
  const [output] = session.outputNames;
  if (input !== "pixels" || output !== "logits") {
    throw new PageError(
      `model.onnx takes “${input}” and gives “${output}”; expected “pixels” and “logits”: ` +
        "export it without --no-normalize and --softmax.",
    );
  }
  const run = async (pixels) => {
    const results = await session.run({ pixels: new ort.Tensor("float32", pixels, [1, 1, SIDE, SIDE]) });
    return results.logits.data;
  };
  let logits;
  try {
    logits = await run(new Float32Array(SIDE * SIDE)); // the first run is the slowest, and tells if the images fit
  } catch (error) {
    throw new PageError(`model.onnx does not take images of 1×8×8 pixels: ${error.message}`);
  }
  if (logits.length !== CLASSES) throw new PageError(`model.onnx tells ${logits.length} classes apart; expected 10.`);
  return { run, bytes: file.length };
}

function softmax(logits) {
  const highest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - highest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

// ---- What is shown

function say(text, isError = false) {
  status.textContent = text;
  status.className = isError ? "error" : "";
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function showBars(probabilities) {
  const best = probabilities.indexOf(Math.max(...probabilities));
  const body = document.querySelector("#bars tbody");
  body.replaceChildren(
    ...probabilities.map((probability, digit) => {
      const row = document.createElement("tr");
      const name = document.createElement("th");
      name.scope = "row";
      name.textContent = digit;
      const bar = document.createElement("div");
      bar.className = "bar";
      bar.style.width = percent(probability).replace(" ", "");
      const cell = document.createElement("td");
      cell.append(bar);
      const value = document.createElement("td");
      value.textContent = percent(probability);
      row.append(name, cell, value);
      if (probability > 0 && digit === best) row.className = "best";
      return row;
    }),
  );
}

/** Ink is dark, as on paper. */
function showPicture(pixels) {
  const context = document.getElementById("picture").getContext("2d");
  const image = context.createImageData(SIDE, SIDE);
  pixels.forEach((ink, index) => image.data.set([0, 0, 0, Math.round(255 * ink)], 4 * index));
  context.putImageData(image, 0, 0);
}

/** Without an answer: an empty page, or one that is not ready. The data attributes are for tests and the curious. */
function showNothing() {
  document.getElementById("digit").textContent = "?";
  showBars(new Array(CLASSES).fill(0));
  showPicture(new Float32Array(SIDE * SIDE));
  for (const name of ["digit", "strokes", "pixels", "logits"]) delete document.body.dataset[name];
}

function showAnswer(pixels, logits, milliseconds) {
  const probabilities = softmax(logits);
  const digit = probabilities.indexOf(Math.max(...probabilities));
  document.getElementById("digit").textContent = digit;
  showBars(probabilities);
  showPicture(pixels);
  say(`Recognised: ${digit}, with a probability of ${percent(probabilities[digit])}, in ${milliseconds.toFixed(1)} ms.`);
  Object.assign(document.body.dataset, {
    digit,
    strokes: strokes.length,
    pixels: JSON.stringify(Array.from(pixels)),
    logits: JSON.stringify(Array.from(logits)),
  });
}

/** Run the network on what is drawn; what is drawn meanwhile gets a run of its own. */
async function recognise() {
  if (!network || running) return;
  running = true;
  try {
    for (let drawn = null; drawn !== drawings; ) {
      drawn = drawings;
      const pixels = pictureOf(strokes);
      if (pixels === null) break;
      const start = performance.now();
      const logits = await network.run(pixels);
      if (drawn === drawings) showAnswer(pixels, logits, performance.now() - start);
    }
  } catch (error) {
    say(`The network failed: ${error.message}`, true);
  } finally {
    running = false;
  }
}

// ---- Drawing

const context = paper.getContext("2d");
Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#1b2330" });

/** Where the pointer is, in units of the canvas. */
function place(event) {
  const box = paper.getBoundingClientRect();
  return [
    ((event.clientX - box.left) * paper.width) / box.width,
    ((event.clientY - box.top) * paper.height) / box.height,
  ];
}

function extend(stroke, point) {
  const [from] = stroke.slice(-1);
  stroke.push(point);
  context.beginPath();
  context.moveTo(...(from ?? point));
  context.lineTo(...point);
  context.stroke();
}

let pointer = null; // the one that draws; a second finger does not
let stroke = null;

paper.addEventListener("pointerdown", (event) => {
  if (pointer !== null || event.button !== 0) return;
  pointer = event.pointerId;
  paper.setPointerCapture(pointer);
  stroke = [];
  extend(stroke, place(event));
});

paper.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  for (const part of event.getCoalescedEvents?.() ?? []) extend(stroke, place(part));
  extend(stroke, place(event));
});

function finish(event) {
  if (event.pointerId !== pointer) return;
  strokes.push(stroke);
  pointer = stroke = null;
  drawings += 1;
  clear.disabled = false;
  recognise();
}

paper.addEventListener("pointerup", finish);
paper.addEventListener("pointercancel", finish);

clear.addEventListener("click", () => {
  strokes.length = 0;
  pointer = stroke = null;
  drawings += 1;
  context.clearRect(0, 0, paper.width, paper.height);
  clear.disabled = true;
  showNothing();
  if (network) say("Ready. Draw a digit.");
});

// ---- Start

showNothing();
say("Loading the network …");
try {
  network = await loadNetwork();
  document.getElementById("facts").textContent =
    `${MODEL}: ${network.bytes.toLocaleString("en")} bytes. Nothing that you draw leaves this page.`;
  document.body.dataset.ready = "";
  say("Ready. Draw a digit.");
  recognise();
} catch (error) {
  say(error instanceof PageError ? error.message : `Unexpected: ${error.message}`, true);
}
