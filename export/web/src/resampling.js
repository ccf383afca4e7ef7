// Resampling: the mean over boxes, along one axis after the other. export/README.md, steps 3 and 6. Images are { shape, numChannels, data },
// channels first and Z fastest.
import { RareError, short } from "./errors.js";
import { product } from "./geometry.js";

const MOST_VOXELS = 2 ** 30;

// The size of the grid with spacing old / zoom. Throws a RareError, before anything is allocated, for one that is too far or too large.
export function resampledShape(shape, zoom, rule) {
  const growth = product(zoom.map((factor, axis) => Math.max(factor, 1 / shape[axis])));
  if (growth > rule.max_growth || !zoom.every((factor) => factor >= 1 / rule.max_step && factor <= rule.max_step)) {
    throw new RareError("the spacing is too far from the grid that the scan is resampled to", {
      field: "spacing",
      found: `${zoom.map((factor) => short(factor)).join(" x ")} times the grid's spacing`,
      expected: `at most ${rule.max_step} times, at least 1/${rule.max_step}, and at most ${rule.max_growth} times as many voxels`,
      remedy: "check the spacing and its unit in the header",
    });
  }
  const resampled = shape.map((size, axis) => Math.max(1, Math.floor(size * zoom[axis] + 0.5)));
  if (product(resampled) > Math.max(MOST_VOXELS, product(shape))) {
    throw new RareError("the resampled scan would be too large", {
      field: "spacing",
      found: `${shape.join(" x ")} voxels would become ${resampled.join(" x ")}`,
      expected: `at most ${MOST_VOXELS} voxels`,
      remedy: "check the spacing and its unit in the header",
    });
  }
  return resampled;
}

// An image on the grid of `shape`, with spacing old / zoom per axis; an axis with zoom 1 stays.
export function resample(image, zoom, shape, rule) {
  return zoom.reduce((result, factor, axis) => (factor === 1 ? result : boxMean(result, axis, shape[axis], 1 / factor, rule)), image);
}

function boxMean(image, axis, newSize, step, rule) {
  const { shape, numChannels, data } = image;
  const size = shape[axis];
  const outer = numChannels * product(shape.slice(0, axis));
  const inner = product(shape.slice(axis + 1));
  const result = new Float32Array(outer * newSize * inner);
  boxWeights(size, newSize, step, rule.min_box_voxels).forEach((taps, row) => {
    for (const [from, weight] of taps) {
      for (let block = 0; block < outer; block++) {
        const target = (block * newSize + row) * inner;
        const source = (block * size + from) * inner;
        for (let place = 0; place < inner; place++) result[target + place] += weight * data[source + place];
      }
    }
  });
  return { shape: shape.map((old, other) => (other === axis ? newSize : old)), numChannels, data: result };
}

// For each new voxel, the old voxels that its box overlaps, with their shares: [[index, share], ...]. Beyond the border, the last voxel.
export function boxWeights(size, newSize, step, minBoxVoxels) {
  const half = Math.max(minBoxVoxels, step) / 2;
  return Array.from({ length: newSize }, (_, row) => {
    const centre = (row - (newSize - 1) / 2) * step + (size - 1) / 2;
    const shares = new Map();
    for (let tap = Math.floor(centre - half + 0.5); tap - 0.5 < centre + half; tap++) {
      const overlap = Math.min(tap + 0.5, centre + half) - Math.max(tap - 0.5, centre - half);
      const place = Math.min(Math.max(tap, 0), size - 1);
      if (overlap > 0) shares.set(place, (shares.get(place) || 0) + overlap / (2 * half));
    }
    return [...shares];
  });
}

// For each of `size` voxels of the old grid, the voxel of the new grid (old spacing / zoom) with the nearest centre.
export function nearestIndices(size, newSize, zoom) {
  return Array.from({ length: size }, (_, index) => {
    const centre = (index - (size - 1) / 2) * zoom + (newSize - 1) / 2;
    return Math.min(Math.max(Math.floor(centre + 0.5), 0), newSize - 1);
  });
}
