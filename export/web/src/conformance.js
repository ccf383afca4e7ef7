// Runs the conformance vectors of the bundle, as `rare info --verify` does: rarecli/core/engines/conformance.py.
import { placed } from "./cropping.js";
import { RareError } from "./errors.js";
import { fromRas, product } from "./geometry.js";
import { readNifti } from "./nifti.js";
import { entryText } from "./routing.js";
import { readTensors } from "./safetensors.js";
import { labelsOf, meanScores, prepare, restoreNearest, softmax } from "./segment.js";
import { slidingLogits } from "./windows.js";

const IMAGE_TOLERANCE = 1e-5;

// One line about a vector. files: its scan, labels and arrays as bytes. Throws a RareError at a disagreement.
export async function verifyVector(vector, files, manifest, run) {
  const scan = await readNifti(vector.scan.file, new Blob([files.scan]));
  const expected = await readNifti(vector.labels.file, new Blob([files.labels]));
  const arrays = readTensors(files.arrays);
  const prepared = prepare(scan, manifest);
  const name = entryText(vector.entry);
  if (prepared.engine.entry.join() !== vector.entry.join()) {
    throw new RareError("the scan is routed to a different entry", { path: vector.scan.file, found: prepared.engine.entry, expected: vector.entry });
  }
  const imageOff = farthest(prepared.image.data, arrays.image.data);
  if (!(imageOff <= IMAGE_TOLERANCE)) {
    throw new RareError("the scan is prepared differently", { path: vector.arrays.file, field: "image", found: `off by ${imageOff.toExponential(1)}` });
  }
  const numClasses = manifest.spec.plan.label_values.length;
  const runWindow = (data, shape) => run(prepared.engine, data, shape);
  const logits = await slidingLogits(prepared.image, prepared.engine, manifest.window, numClasses, runWindow);
  const tolerance = prepared.engine.parity.tolerance_rel * arrays.logits.data.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const off = farthest(logits.data, arrays.logits.data);
  const labels = labelsOf(logits, prepared, scan, manifest);
  const open = uncertain({ ...logits, data: arrays.logits.data }, tolerance, prepared, scan, manifest);
  const wrong = labels.reduce((num, label, place) => num + Number(label !== expected.channels[0][place] && !open[place]), 0);
  if (!(off <= tolerance) || wrong) {
    throw new RareError("the engine does not reproduce the conformance vector", {
      path: vector.arrays.file,
      field: name,
      found: `logits off by ${off.toExponential(1)}, ${wrong} labels wrong`,
      expected: `at most ${tolerance.toExponential(1)}, none`,
    });
  }
  return `${name}: logits within ${off.toExponential(1)}, labels correct`;
}

// 1 for each voxel of the scan whose two best probabilities are so near that the tolerance of the logits may turn them.
export function uncertain(logits, tolerance, prepared, scan, manifest) {
  const { scores, zoom } = meanScores(logits, prepared, manifest);
  const shares = scores === logits ? softmax(logits) : scores;
  const size = product(shares.shape);
  const near = Uint8Array.from({ length: size }, (_, place) => {
    let [best, second] = [-Infinity, -Infinity];
    for (let at = place; at < shares.data.length; at += size) {
      second = Math.max(second, Math.min(best, shares.data[at]));
      best = Math.max(best, shares.data[at]);
    }
    return Number(best - second <= tolerance);
  });
  const own = restoreNearest(near, shares.shape, prepared.source.shape, zoom);
  return fromRas(placed(own, prepared.box, prepared.whole), scan.shape, prepared.orientation);
}

function farthest(one, other) {
  if (one.length !== other.length) return Infinity;
  return one.reduce((most, value, place) => Math.max(most, Math.abs(value - other[place])), 0);
}
