// Runs the network alone, for `rare benchmark --backends browser`: rarecli/core/benchmarking/browser_runner.py calls these functions.
import { asset } from "./assets.js";
import { engineRunner } from "./engine.js";
import { RareError } from "./errors.js";
import { product } from "./geometry.js";
import { bestClasses } from "./segment.js";

const MOST_ARGUMENTS = 0x8000; // of String.fromCharCode
let runner = null;

globalThis.network = {
  async load() {
    const [runtime, wasm, weights] = [await asset("ort.mjs"), await asset("ort.wasm"), await asset("weights.safetensors")];
    runner = engineRunner({ runtime, wasm, weights, graphs: {} });
  },

  async addGraph(file) {
    runner.graphs[file] = new Uint8Array(await chosen());
  },

  put: async () => new Float32Array(await chosen()),

  // images: a batch (B, C, X, Y, Z) as one Float32Array; returns its logits (B, K, X, Y, Z), one Float32Array for each image.
  async forward(images, engine, shape) {
    const size = engine.input.shape[1] * product(shape);
    const logits = [];
    try {
      for (let start = 0; start < images.length; start += size) logits.push(await runner.run(engine, images.slice(start, start + size), shape));
    } catch (error) {
      throw error instanceof RareError ? new Error(error.text) : error;
    }
    return logits;
  },

  best: (logits, shape) => logits.map((data) => bestClasses({ shape, data })),

  // A part of one of the arrays, in base64.
  fetch(arrays, index, start, size) {
    const bytes = new Uint8Array(arrays[index].buffer).subarray(start, start + size);
    const parts = [];
    for (let at = 0; at < bytes.length; at += MOST_ARGUMENTS) parts.push(String.fromCharCode(...bytes.subarray(at, at + MOST_ARGUMENTS)));
    return btoa(parts.join(""));
  },
};

const chosen = () => document.querySelector("input").files[0].arrayBuffer();
