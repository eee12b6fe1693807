// Computes in this browser, with onnxruntime-web: no picture leaves it.
import * as ort from "../runtime/ort.wasm.min.mjs";
import { cropSquare } from "./resize.js";

export const AT_ONCE = 1; // the network uses all it can get
export const WHERE = "Pictures stay in this browser: the network computes here.";

const TOP = 5; // labels per picture

export class TokenNeeded extends Error {}
export function useToken() {}

let labels, how, session;

async function load(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} is missing.`);
  return response;
}

// Returns study, labels and threshold.
export async function describe() {
  ort.env.wasm.wasmPaths = new URL("../runtime/", import.meta.url).href;
  ort.env.wasm.numThreads = 1; // more need headers that few static servers send
  const index = await (await load("model/bundle.json")).json();
  how = await (await load("model/preprocessing.json")).json();
  labels = (await (await load("model/labels.txt")).text()).split("\n").slice(0, -1);
  session = await ort.InferenceSession.create(await (await load("model/model.onnx")).arrayBuffer());
  return { study: index.study, labels, threshold: how.threshold };
}

// Returns upright RGB pixels, transparency on white, without a conversion of colours, as Pillow decodes them.
async function decode(file) {
  const image = await createImageBitmap(file, {
    imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none",
  });
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const rgb = new Uint8Array((data.length / 4) * 3);
  for (let i = 0; i < data.length / 4; i += 1) {
    const alpha = data[4 * i + 3];
    for (let channel = 0; channel < 3; channel += 1) {
      const value = data[4 * i + channel];
      rgb[3 * i + channel] = alpha === 255 ? value : Math.round((value * alpha + 255 * (255 - alpha)) / 255);
    }
  }
  return { rgb, width: image.width, height: image.height };
}

// Returns the probabilities of RGB pixels (height, width, 3), in the order of the labels, and the distance.
async function compute({ rgb, width, height }) {
  const square = cropSquare(rgb, width, height, how.pixels, how.interpolation);
  const input = new ort.Tensor("uint8", square, [1, 3, how.pixels, how.pixels]);
  const found = await session.run({ pixels: input });
  return { found: [...found.probabilities.data], distance: found.distance?.data[0] ?? 0 };
}

// Returns label, probability, top and milliseconds, or error.
export async function classify(file) {
  const start = performance.now();
  let picture;
  try {
    picture = await decode(file);
  } catch {
    return { error: "not a picture, or in a format that this browser does not know" };
  }
  const { found, distance } = await compute(picture);
  const order = found.map((_, number) => number).sort((a, b) => found[b] - found[a]).slice(0, TOP);
  const top = order.map((number) => ({ label: labels[number], probability: found[number] }));
  const label = top[0].probability >= how.threshold && distance <= 1 ? top[0].label : "unknown";
  return { label, distance, probability: top[0].probability, top, milliseconds: performance.now() - start };
}
