// A scan from the files that were dropped: one file, or one for each channel in the order of their names.
import { RareError } from "./errors.js";
import { readNifti } from "./nifti.js";
import { spacingOf } from "./geometry.js";

export async function readScan(files) {
  const sorted = [...files].sort((one, other) => (one.name < other.name ? -1 : 1));
  const parts = [];
  for (const file of sorted) parts.push(await readNifti(file.name, file));
  parts.slice(1).forEach((part, index) => requireSameGrid(part, parts[0], sorted[index + 1].name, sorted[0].name));
  return { ...parts[0], channels: parts.flatMap((part) => part.channels), notes: parts.flatMap((part) => part.notes) };
}

// The same shape, and the same affine within a hundredth of a voxel.
function requireSameGrid(part, first, name, firstName) {
  const tolerance = 1e-2 * Math.min(...spacingOf(first.affine));
  const isNear = part.affine.flat().every((value, place) => Math.abs(value - first.affine.flat()[place]) <= tolerance);
  if (part.shape.join() !== first.shape.join() || !isNear) {
    throw new RareError(`channel ${name} is on a different grid than ${firstName}`, {
      path: name,
      found: grid(part),
      expected: grid(first),
      remedy: "resample one onto the other",
    });
  }
}

function grid({ shape, affine }) {
  const spacing = spacingOf(affine).map((mm) => Number(mm.toPrecision(4)));
  const origin = affine.map((row) => Number(row[3].toPrecision(4)));
  return `${shape.join(" x ")} voxels of ${spacing.join(" x ")} mm, origin (${origin.join(", ")})`;
}
