// The box of what is not background. export/README.md, steps 1 and 6. Images are { shape, numChannels, data } in RAS, Z fastest.
import { product } from "./geometry.js";

// The smallest box { low, shape } that holds all voxels of which any channel differs from 0; the whole image if there is none.
export function contentBox(image) {
  const [sizeX, sizeY, sizeZ] = image.shape;
  const [low, high] = [[Infinity, Infinity, Infinity], [-1, -1, -1]];
  const size = product(image.shape);
  for (let place = 0; place < image.data.length; place++) {
    if (image.data[place] === 0) continue;
    const voxel = place % size;
    [Math.floor(voxel / sizeZ / sizeY), Math.floor(voxel / sizeZ) % sizeY, voxel % sizeZ].forEach((index, axis) => {
      low[axis] = Math.min(low[axis], index);
      high[axis] = Math.max(high[axis], index);
    });
  }
  return high[0] < 0 ? { low: [0, 0, 0], shape: [sizeX, sizeY, sizeZ] } : { low, shape: low.map((first, axis) => high[axis] - first + 1) };
}

// The image inside a box.
export function cropped(image, box) {
  const data = new Float32Array(image.numChannels * product(box.shape));
  for (let channel = 0; channel < image.numChannels; channel++) {
    forEachLine(image.shape, box, channel, (inWhole, inBox) => data.set(image.data.subarray(inWhole, inWhole + box.shape[2]), inBox));
  }
  return { shape: box.shape, numChannels: image.numChannels, data };
}

// Labels of a box on the whole grid, 0 outside.
export function placed(labels, box, shape) {
  const whole = new labels.constructor(product(shape));
  forEachLine(shape, box, 0, (inWhole, inBox) => whole.set(labels.subarray(inBox, inBox + box.shape[2]), inWhole));
  return whole;
}

function forEachLine(shape, { low, shape: inner }, channel, visit) {
  for (let x = 0; x < inner[0]; x++) {
    for (let y = 0; y < inner[1]; y++) {
      visit(((channel * shape[0] + low[0] + x) * shape[1] + low[1] + y) * shape[2] + low[2], ((channel * inner[0] + x) * inner[1] + y) * inner[2]);
    }
  }
}
