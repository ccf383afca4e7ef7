// Affines, the orientation of axes, and the way of arrays to RAS and back. Affines are rows: [[a, b, c, d], ...], voxel index -> mm.
import { RareError, listed } from "./errors.js";

export const product = (values) => values.reduce((total, value) => total * value, 1);
const column = (affine, axis) => [0, 1, 2].map((row) => affine[row][axis]);

// The distance between neighbouring voxels along each array axis, in mm.
export const spacingOf = (affine) => [0, 1, 2].map((axis) => Math.hypot(...column(affine, axis)));

// Throws a RareError unless the axes are finite, independent and at right angles. Returns notes about a tiny shear.
export function requireOrthogonal(affine, field) {
  const lengths = spacingOf(affine);
  const usable = affine.flat().every(Number.isFinite) && lengths.every((length) => Number.isFinite(length) && length > 0);
  const directions = [0, 1, 2].map((row) => [0, 1, 2].map((axis) => (usable ? affine[row][axis] / lengths[axis] : 0)));
  if (Math.abs(determinant(directions)) < 1e-6) {
    const found = `[${[...affine, [0, 0, 0, 1]].map(listed).join(", ")}]`;
    throw new RareError("the affine is not invertible", { field, found, expected: "finite, three independent axes" });
  }
  const cosine = (one, other) => [0, 1, 2].reduce((sum, row) => sum + directions[row][one] * directions[row][other], 0);
  const shear = Math.max(...[[0, 1], [0, 2], [1, 2]].map(([one, other]) => Math.abs(cosine(one, other))));
  if (shear > 1e-2) {
    const found = `a cosine of ${shear.toFixed(3)} between two axes`;
    throw new RareError("the axes are not at right angles", { field, found, expected: "no shear", remedy: "resample the scan" });
  }
  return shear > 1e-4 ? [`the axes are not exactly at right angles (cosine ${shear.toExponential(1)}); treated as if they were`] : [];
}

function determinant([[a, b, c], [d, e, f], [g, h, i]]) {
  return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
}

// The inverse of the transpose of a 3x3 matrix.
function inverseTransposed(m) {
  const minor = (row, axis) => {
    const [r, s] = [0, 1, 2].filter((other) => other !== row);
    const [a, b] = [0, 1, 2].filter((other) => other !== axis);
    return (m[r][a] * m[s][b] - m[r][b] * m[s][a]) * ((row + axis) % 2 ? -1 : 1);
  };
  const det = determinant(m);
  return [0, 1, 2].map((row) => [0, 1, 2].map((axis) => minor(row, axis) / det));
}

// Which RAS axis each array axis runs along (`target`), and whether it runs against it (`flipped`).
// Source: nibabel's io_orientation: the nearest rotation, then the strongest axis first. The rotation comes from Newton's iteration.
export function orientationOf(affine) {
  const lengths = spacingOf(affine);
  let rotation = [0, 1, 2].map((row) => [0, 1, 2].map((axis) => affine[row][axis] / lengths[axis]));
  for (let step = 0; step < 20; step++) {
    const other = inverseTransposed(rotation);
    rotation = rotation.map((values, row) => values.map((value, axis) => (value + other[row][axis]) / 2));
  }
  const strength = (axis) => Math.max(...column(rotation, axis).map(Math.abs));
  const order = [0, 1, 2].sort((one, other) => strength(other) - strength(one));
  const target = [0, 0, 0];
  const flipped = [false, false, false];
  const free = [0, 1, 2];
  for (const axis of order) {
    const best = free.reduce((top, row) => (Math.abs(rotation[row][axis]) > Math.abs(rotation[top][axis]) ? row : top));
    free.splice(free.indexOf(best), 1);
    target[axis] = best;
    flipped[axis] = rotation[best][axis] < 0;
  }
  return { target, flipped };
}

// Per-axis values of an array, in the order of RAS axes.
export function alongRas(values, { target }) {
  const turned = [0, 0, 0];
  values.forEach((value, axis) => (turned[target[axis]] = value));
  return turned;
}

// Where a voxel of the RAS array lies in an array with X fastest: start + x * steps[0] + y * steps[1] + z * steps[2].
export function strides(shape, { target, flipped }) {
  const steps = [0, 0, 0];
  let start = 0;
  let step = 1;
  shape.forEach((size, axis) => {
    steps[target[axis]] = flipped[axis] ? -step : step;
    if (flipped[axis]) start += (size - 1) * step;
    step *= size;
  });
  return { start, steps };
}

// Calls visit(place in RAS with Z fastest, place in the array with X fastest) for every voxel.
function forEachVoxel(shape, orientation, visit) {
  const [sizeX, sizeY, sizeZ] = alongRas(shape, orientation);
  const { start, steps } = strides(shape, orientation);
  let place = 0;
  for (let x = 0; x < sizeX; x++) {
    for (let y = 0; y < sizeY; y++) {
      let from = start + x * steps[0] + y * steps[1];
      for (let z = 0; z < sizeZ; z++, from += steps[2]) visit(place++, from);
    }
  }
}

// A volume { shape, data: one array for each channel, X fastest } as an image { shape, numChannels, data } in RAS with Z fastest.
export function toRas(volume, orientation) {
  const size = product(volume.shape);
  const image = { shape: alongRas(volume.shape, orientation), numChannels: volume.channels.length, data: new Float32Array(size * volume.channels.length) };
  volume.channels.forEach((channel, number) => {
    const target = image.data.subarray(number * size, (number + 1) * size);
    forEachVoxel(volume.shape, orientation, (to, from) => (target[to] = channel[from]));
  });
  return image;
}

// Undoes `toRas` for labels: an array with X fastest, in the axes of a volume of this shape.
export function fromRas(labels, shape, orientation) {
  const restored = new labels.constructor(labels.length);
  forEachVoxel(shape, orientation, (from, to) => (restored[to] = labels[from]));
  return restored;
}
