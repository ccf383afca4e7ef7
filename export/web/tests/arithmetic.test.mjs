// Values by hand, or from a law.
import assert from "node:assert/strict";
import { test } from "node:test";
import { contentBox, cropped, placed } from "../src/cropping.js";
import { alongRas, fromRas, orientationOf, toRas } from "../src/geometry.js";
import { limits, normalise, percentiles } from "../src/normalisation.js";
import { boxWeights, nearestIndices, resample, resampledShape } from "../src/resampling.js";
import { weightsOf } from "../src/safetensors.js";
import { bestClasses, meanScores, softmax, volumesOf } from "../src/segment.js";
import { requireNoThread, slidingLogits, windowsOf } from "../src/windows.js";

const rule = { min_box_voxels: 1, max_step: 256, max_growth: 4096 };
const windowRule = { overlap: 0.5, sigma: 0.125, min_weight: 1e-4, padding_value: 0 };
const line = (...values) => ({ shape: [1, 1, values.length], numChannels: 1, data: Float32Array.from(values) });
const near = (found, expected, tolerance = 1e-6) => {
  assert.equal(found.length, expected.length);
  found.forEach((value, place) => assert.ok(Math.abs(value - expected[place]) <= tolerance, `${found} is not ${expected}`));
};

test("half the resolution is the mean of two voxels", () => {
  near(resample(line(1, 3, 5, 9), [1, 1, 0.5], [1, 1, 2], rule).data, [2, 7]);
});

test("twice the resolution interpolates, and repeats the last voxel beyond the border", () => {
  near(resample(line(0, 4), [1, 1, 2], [1, 1, 4], rule).data, [0, 1, 3, 4]);
});

test("every box has a weight of 1", () => {
  for (const [size, newSize, step] of [[7, 5, 1.4], [5, 7, 0.7], [1, 3, 0.3], [9, 1, 9]]) {
    for (const taps of boxWeights(size, newSize, step, 1)) near([taps.reduce((sum, [, share]) => sum + share, 0)], [1], 1e-12);
  }
});

test("the new size is rounded half up, at least 1", () => {
  assert.deepEqual(resampledShape([5, 3, 1], [0.5, 0.5, 0.3], rule), [3, 2, 1]);
  assert.throws(() => resampledShape([5, 5, 5], [300, 1, 1], rule), { problem: "the spacing is too far from the grid that the scan is resampled to" });
});

test("the nearest voxel is rounded half up and clamped", () => {
  assert.deepEqual(nearestIndices(4, 2, 0.5), [0, 0, 1, 1]);
  assert.deepEqual(nearestIndices(3, 2, 0.5), [0, 1, 1]); // centres at 0, 0.5 and 1
});

test("percentiles lie between order statistics", () => {
  near(percentiles([4, 1, 2, 3], [0, 50, 90, 100]), [1, 2.5, 3.7, 4], 1e-12);
});

test("a small structure on a constant background keeps its contrast", () => {
  const channel = new Float32Array(1000).fill(7);
  channel.set([9, 11], 10);
  near(limits(channel, { voxels: "all", lower: 0, upper: 50 }), [7, 10]);
});

test("percentiles of what is not zero", () => {
  const image = line(0, 0, 0, 2, 4, 6);
  normalise(image, { kind: "percentile", voxels: "nonzero", lower: 0, upper: 100 });
  near(image.data, [0, 0, 0, 0, 0.5, 1]);
});

test("a window of Hounsfield units", () => {
  const image = line(-2000, 50, 3000);
  normalise(image, { kind: "ct", lower: [-100], upper: [200], mean: [50], std: [75] });
  near(image.data, [-2, 0, 2]);
});

test("mean 0 and standard deviation 1; a constant channel becomes 0", () => {
  const image = line(1, 2, 3, 6);
  normalise(image, { kind: "z-score" });
  near(image.data, [-2, -1, 0, 3].map((value) => value / Math.sqrt(3.5)));
  const constant = line(7, 7);
  normalise(constant, { kind: "z-score" });
  near(constant.data, [0, 0]);
});

test("every channel by a rule of its own", () => {
  const image = { shape: [3, 1, 1], numChannels: 3, data: Float32Array.from([5, 6, 9, 0, 1, 4, -10, 20, 30]) };
  const percentile = { kind: "percentile", voxels: "all", lower: 0, upper: 100 };
  normalise(image, { kind: "per-channel", rules: [{ kind: "none" }, percentile, { kind: "ct", lower: [0], upper: [20], mean: [10], std: [5] }] });
  near(image.data, [5, 6, 9, 0, 0.25, 1, -2, 2, 2]);
});

test("axes are flipped and swapped to RAS and back", () => {
  // array axes run to the left, to superior, to anterior: RAS axes X, Z, Y
  const affine = [[-2, 0, 0, 0], [0, 0, 3, 0], [0, 1, 0, 0]];
  const orientation = orientationOf(affine);
  assert.deepEqual(orientation, { target: [0, 2, 1], flipped: [true, false, false] });
  assert.deepEqual(alongRas([2, 3, 4], orientation), [2, 4, 3]);
  const volume = { shape: [2, 1, 2], channels: [Float32Array.of(1, 2, 3, 4)] }; // X fastest
  const image = toRas(volume, orientation);
  assert.deepEqual([...image.data], [2, 4, 1, 3]); // right is last along the first axis; then anterior
  assert.deepEqual([...fromRas(image.data, volume.shape, orientation)], [1, 2, 3, 4]);
});

test("an oblique scan has the axes that it is nearest to", () => {
  const [c, s] = [Math.cos(0.6), Math.sin(0.6)];
  assert.deepEqual(orientationOf([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, -1, 0]]), { target: [0, 1, 2], flipped: [false, false, true] });
});

test("the box of the content, and its place in the whole", () => {
  const image = { shape: [3, 2, 3], numChannels: 1, data: new Float32Array(18) };
  image.data[1 * 6 + 1 * 3 + 0] = 5;
  image.data[2 * 6 + 1 * 3 + 1] = -1;
  const box = contentBox(image);
  assert.deepEqual(box, { low: [1, 1, 0], shape: [2, 1, 2] });
  assert.deepEqual([...cropped(image, box).data], [5, 0, 0, -1]);
  assert.deepEqual([...placed(Uint8Array.of(1, 2, 3, 4), box, image.shape)], [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 3, 4, 0]);
  assert.deepEqual(contentBox({ ...image, data: new Float32Array(18) }).shape, [3, 2, 3]);
});

test("windows are evenly spaced, and short axes are padded to a multiple", () => {
  const engine = { entry: [0, 0, 0], divisors: [4, 4, 1], min_shape: [8, 8, 5], patch_shape: [16, 16, 16] };
  assert.deepEqual(windowsOf([5, 21, 3], engine, windowRule), { window: [8, 16, 5], starts: [[0], [0, 5], [0]] });
  assert.throws(() => requireNoThread([1, 9000, 1], engine, windowRule), { problem: "the scan is too thin for its length" });
});

test("sliding windows give back what a network of one voxel computes", async () => {
  const engine = { entry: [0, 0, 0], divisors: [1, 1, 1], min_shape: [2, 2, 2], patch_shape: [4, 4, 4] };
  const shape = [7, 1, 9];
  const image = { shape, numChannels: 1, data: Float32Array.from({ length: 63 }, (_, place) => Math.sin(place)) };
  const twice = async (data) => Float32Array.from([...data, ...data.map((value) => 2 * value)]);
  const logits = await slidingLogits(image, engine, windowRule, 2, twice);
  near(logits.data.subarray(0, 63), image.data, 1e-5);
  near(logits.data.subarray(63), image.data.map((value) => 2 * value), 1e-5);
});

test("the first of equal classes is the best", () => {
  assert.deepEqual([...bestClasses({ shape: [1, 1, 3], data: Float32Array.of(1, 0, 2, 1, 5, 2, 0, 5, 3) })], [0, 1, 2]);
});

test("probabilities sum to 1, and are averaged where the routed grid is finer", () => {
  const logits = { shape: [1, 1, 2], numChannels: 2, data: Float32Array.of(0, Math.log(3), 0, 0) };
  near(softmax(logits).data, [0.5, 0.75, 0.5, 0.25]);
  const prepared = { zoom: [1, 1, 2], source: { shape: [1, 1, 1] } };
  near(meanScores(logits, prepared, { resampling: rule }).scores.data, [0.625, 0.375]);
});

test("volumes are in mm^3", () => {
  const manifest = { spec: { plan: { label_values: [0, 4], label_names: ["background", "tumour"] } } };
  const scan = { affine: [[2, 0, 0, 0], [0, 0, 3, 0], [0, 0.5, 0, 0]] };
  assert.deepEqual(volumesOf(Int32Array.of(0, 4, 4), scan, manifest), [{ name: "tumour", value: 4, mm3: 6 }]);
});

test("halves are unpacked in the order of the file", () => {
  // 1, -2, the smallest half, the largest half; source: IEEE 754
  const halves = Uint16Array.of(0x3c00, 0xc000, 0x0001, 0x7bff);
  const header = JSON.stringify({ b: { dtype: "F32", shape: [1], data_offsets: [8, 12] }, a: { dtype: "F16", shape: [4], data_offsets: [0, 8] } });
  const file = new Uint8Array(8 + header.length + 12);
  new DataView(file.buffer).setBigUint64(0, BigInt(header.length), true);
  file.set(new TextEncoder().encode(header), 8);
  file.set(new Uint8Array(halves.buffer), 8 + header.length);
  file.set(new Uint8Array(Float32Array.of(0.1).buffer), 8 + header.length + 8);
  assert.deepEqual([...new Float32Array(weightsOf(file).buffer)], [1, -2, 2 ** -24, 65504, Math.fround(0.1)]);
});
