// Padding and sliding windows. export/README.md, step 5.
import { RareError } from "./errors.js";
import { product } from "./geometry.js";
import { entryText } from "./routing.js";

const MOST_WINDOWS_OF_A_THIN_SCAN = 256;

// The size of a window on an image of `shape`, and the first voxels of the windows along each axis.
export function windowsOf(shape, engine, rule) {
  const window = shape.map((size, axis) => {
    const step = engine.divisors[axis];
    return Math.min(Math.max(Math.ceil(size / step) * step, engine.min_shape[axis]), engine.patch_shape[axis]);
  });
  return { window, starts: shape.map((size, axis) => startsAlong(size, window[axis], rule.overlap)) };
}

function startsAlong(size, window, overlap) {
  if (size <= window) return [0];
  const num = Math.ceil((size - window) / (window * (1 - overlap))) + 1;
  return Array.from({ length: num }, (_, index) => Math.floor((index * (size - window)) / (num - 1) + 0.5));
}

// Throws a RareError for a long scan that is thin along two axes: padding would dominate its cost.
export function requireNoThread(shape, engine, rule) {
  const { window, starts } = windowsOf(shape, engine, rule);
  const padding = product(window.map((extent, axis) => Math.max(1, extent / shape[axis])));
  const [most, num] = [Math.max(...engine.min_shape), product(starts.map((axis) => axis.length))];
  if (padding > most && num > MOST_WINDOWS_OF_A_THIN_SCAN) {
    throw new RareError("the scan is too thin for its length", {
      field: "dim",
      found: `${shape.join(" x ")} voxels on the grid of ${entryText(engine.entry)}: padding makes them ${padding.toFixed(0)} times as many, in ${num} windows`,
      expected: `at most ${most} times as many, or at most ${MOST_WINDOWS_OF_A_THIN_SCAN} windows`,
      remedy: "crop the scan, or check the sizes in its header",
    });
  }
}

// The weight of each voxel where windows overlap: a Gaussian around the centre.
export function windowWeights(window, rule) {
  const axes = window.map((size) =>
    Array.from({ length: size }, (_, index) => Math.exp(-0.5 * ((index - (size - 1) / 2) / (rule.sigma * size)) ** 2)),
  );
  const weights = new Float32Array(product(window));
  let place = 0;
  for (const x of axes[0]) for (const y of axes[1]) for (const z of axes[2]) weights[place++] = Math.max(x * y * z, rule.min_weight);
  return weights;
}

// Logits { shape, numChannels: numClasses, data } of a normalised image.
// run(data, shape): one window (C, X, Y, Z) -> its logits (K, X, Y, Z), both Float32Array. onWindow(done, total) is called before each.
export async function slidingLogits(image, engine, rule, numClasses, run, onWindow = () => {}) {
  const { window, starts } = windowsOf(image.shape, engine, rule);
  const total = { shape: image.shape, numChannels: numClasses, data: new Float32Array(numClasses * product(image.shape)) };
  const corners = starts[0].flatMap((x) => starts[1].flatMap((y) => starts[2].map((z) => [x, y, z])));
  const weights = corners.length > 1 ? windowWeights(window, rule) : null;
  const weight = { shape: image.shape, numChannels: 1, data: new Float32Array(weights ? product(image.shape) : 0) };
  for (const [number, corner] of corners.entries()) {
    onWindow(number, corners.length);
    const logits = await run(cut(image, corner, window, rule.padding_value), window);
    add(total, logits, corner, window, weights);
    if (weights) add(weight, weights, corner, window, null);
  }
  if (weights) total.data.forEach((value, place) => (total.data[place] = value / weight.data[place % weight.data.length]));
  return total;
}

// Calls visit(place in the image, place in the window, length) for every run of voxels along Z that a window shares with the image.
function forEachRun({ shape, numChannels }, [x0, y0, z0], window, visit) {
  const length = Math.min(window[2], shape[2] - z0);
  for (let channel = 0; channel < numChannels; channel++) {
    for (let x = 0; x < window[0] && x0 + x < shape[0]; x++) {
      for (let y = 0; y < window[1] && y0 + y < shape[1]; y++) {
        const inImage = ((channel * shape[0] + x0 + x) * shape[1] + y0 + y) * shape[2] + z0;
        visit(inImage, ((channel * window[0] + x) * window[1] + y) * window[2], length);
      }
    }
  }
}

function cut(image, corner, window, padding) {
  const part = new Float32Array(image.numChannels * product(window)).fill(padding);
  forEachRun(image, corner, window, (from, to, length) => part.set(image.data.subarray(from, from + length), to));
  return part;
}

function add(image, part, corner, window, weights) {
  const size = product(window);
  forEachRun(image, corner, window, (to, from, length) => {
    for (let z = 0; z < length; z++) image.data[to + z] += part[from + z] * (weights ? weights[(from + z) % size] : 1);
  });
}
