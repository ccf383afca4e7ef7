// From a scan to labels on its own grid, with a manifest and a function that runs the network. The steps of export/README.md.
import { contentBox, cropped, placed } from "./cropping.js";
import { RareError } from "./errors.js";
import { differences } from "./fingerprint.js";
import { alongRas, fromRas, orientationOf, product, spacingOf, toRas } from "./geometry.js";
import { requireMemory } from "./nifti_header.js";
import { normalise } from "./normalisation.js";
import { nearestIndices, resample, resampledShape } from "./resampling.js";
import { entryText, route } from "./routing.js";
import { requireNoThread, slidingLogits, windowsOf } from "./windows.js";

// Routes a scan (see `readNifti`), and brings it to the routed grid, normalised.
// Returns { engine, zoom, reason, image, source, whole, box, orientation }. Throws a RareError for a scan that does not suit the model.
export function prepare(scan, manifest) {
  const { plan, network } = manifest.spec;
  if (scan.channels.length !== network.in_channels) {
    throw new RareError("the model was trained for a different number of channels", {
      field: "channels",
      found: scan.channels.length,
      expected: `${network.in_channels} (${plan.channel_names.join(", ")})`,
      remedy: "give one file per channel, CASE_0000.nii.gz, CASE_0001.nii.gz, ..., or one 4D file",
    });
  }
  const orientation = orientationOf(scan.affine);
  const way = route(alongRas(spacingOf(scan.affine), orientation), manifest);
  const whole = toRas(scan, orientation);
  const box = plan.crop === "nonzero" ? contentBox(whole) : { low: [0, 0, 0], shape: whole.shape };
  const source = box.shape === whole.shape ? whole : cropped(whole, box);
  const shape = resampledShape(source.shape, way.zoom, manifest.resampling);
  requireAffordable(source, shape, way.engine, manifest);
  let image = resample(source, way.zoom, shape, manifest.resampling);
  if (image === source) image = { ...source, data: source.data.slice() };
  normalise(image, plan.normalisation);
  return { ...way, image, source, whole: whole.shape, box, orientation };
}

function requireAffordable(source, shape, engine, manifest) {
  requireNoThread(shape, engine, manifest.window);
  const { window } = windowsOf(shape, engine, manifest.window);
  const numClasses = manifest.spec.plan.label_values.length;
  const padded = product(shape.map((size, axis) => Math.max(size, window[axis])));
  requireMemory(4 * (source.data.length + source.numChannels * product(shape) + numClasses * padded), "predicting the scan");
}

// Labels, an array with X fastest in the axes of the scan, for logits { shape, numChannels, data } on the routed grid.
export function labelsOf(logits, prepared, scan, manifest) {
  const { scores, zoom } = meanScores(logits, prepared, manifest);
  const best = restoreNearest(bestClasses(scores), scores.shape, prepared.source.shape, zoom);
  const values = manifest.spec.plan.label_values;
  const labels = Int32Array.from(best, (index) => values[index]);
  return fromRas(placed(labels, prepared.box, prepared.whole), scan.shape, prepared.orientation);
}

// Scores whose best class is a voxel's, and the zoom that remains: along axes where the routed grid is finer, probabilities are averaged over
// the scan's own voxels; without such an axis, the logits themselves.
export function meanScores(logits, { zoom, source }, { resampling }) {
  if (Math.max(...zoom) <= 1) return { scores: logits, zoom };
  const refined = zoom.map((factor) => factor > 1);
  const shape = logits.shape.map((size, axis) => (refined[axis] ? source.shape[axis] : size));
  const back = zoom.map((factor, axis) => (refined[axis] ? 1 / factor : 1));
  return { scores: resample(softmax(logits), back, shape, resampling), zoom: zoom.map((factor, axis) => (refined[axis] ? 1 : factor)) };
}

// Probabilities of logits.
export function softmax({ shape, numChannels, data }) {
  const size = product(shape);
  const powers = new Float32Array(data.length);
  for (let place = 0; place < size; place++) {
    let [most, total] = [-Infinity, 0];
    for (let at = place; at < data.length; at += size) most = Math.max(most, data[at]);
    for (let at = place; at < data.length; at += size) total += powers[at] = Math.exp(data[at] - most);
    for (let at = place; at < data.length; at += size) powers[at] /= total;
  }
  return { shape, numChannels, data: powers };
}

// The index of the best class of every voxel, the first among equals.
export function bestClasses({ shape, data }) {
  const size = product(shape);
  const best = new Uint16Array(size);
  for (let place = 0; place < size; place++) {
    for (let [at, index] = [place + size, 1]; at < data.length; at += size, index++) {
      if (data[at] > data[best[place] * size + place]) best[place] = index;
    }
  }
  return best;
}

// Each voxel of the grid of `newShape` takes the nearest value of the grid with spacing old / zoom.
export function restoreNearest(values, shape, newShape, zoom) {
  const [xs, ys, zs] = newShape.map((size, axis) => nearestIndices(size, shape[axis], zoom[axis]));
  const restored = new values.constructor(product(newShape));
  let place = 0;
  for (const x of xs) for (const y of ys) for (const z of zs) restored[place++] = values[(x * shape[1] + y) * shape[2] + z];
  return restored;
}

// { labels, entry, reason, warnings, volumes } of a scan; labels as from `labelsOf`. run(engine, data, shape): a window (C, X, Y, Z) -> its logits (K, X, Y, Z).
// report({ step, done, total }): what is being done.
export async function segment(scan, manifest, run, report = () => {}) {
  report({ step: "preparing" });
  const prepared = prepare(scan, manifest);
  const { engine, reason } = prepared;
  const numClasses = manifest.spec.plan.label_values.length;
  const runWindow = (data, shape) => run(engine, data, shape);
  const logits = await slidingLogits(prepared.image, engine, manifest.window, numClasses, runWindow, (done, total) =>
    report({ step: "segmenting", done, total }),
  );
  report({ step: "restoring" });
  const labels = labelsOf(logits, prepared, scan, manifest);
  const warnings = differences(scan, prepared, manifest.spec.plan);
  return { labels, entry: entryText(engine.entry), reason, warnings, volumes: volumesOf(labels, scan, manifest) };
}

// The volume of each label in mm^3: [{ name, value, mm3 }, ...], without the background.
export function volumesOf(labels, scan, { spec: { plan } }) {
  const counts = new Map();
  for (const label of labels) counts.set(label, (counts.get(label) || 0) + 1);
  const voxel = product(spacingOf(scan.affine));
  const named = plan.label_values.map((value, index) => ({ name: plan.label_names[index], value, mm3: (counts.get(value) || 0) * voxel }));
  return named.filter(({ value }) => value !== 0);
}
