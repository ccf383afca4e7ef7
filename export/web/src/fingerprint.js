// How a scan differs from the training scans, as sentences: rarecli/core/data/fingerprint.py.
import { alongRas, product, spacingOf } from "./geometry.js";
import { short } from "./errors.js";
import { entryText } from "./routing.js";

const EXTENT_SLACK = 1.5;
const INTENSITY_SLACK = 0.5;
const MOST_ZOOM = 2;
const ROUNDING = 1e-6;

// scan: see `readNifti`. prepared: see `prepare`. Empty if the scan does not differ, or if the model does not say what it was trained on.
export function differences(scan, prepared, { channel_names: names, fingerprint: known }) {
  const found = scan.channels.flatMap((channel, index) => (channel.every((value) => value === channel[0]) ? [`its ${names[index]} is constant`] : []));
  if (!known) return found;
  const spacing = alongRas(spacingOf(scan.affine), prepared.orientation);
  return [...found, ...ofSpacing(spacing, prepared), ...ofExtent(spacing, prepared, known), ...ofIntensity(prepared.image, names, known)];
}

function ofSpacing(spacing, { zoom, engine }) {
  const entry = entryText(engine.entry);
  const grid = engine.grid_spacing_mm;
  const far = [0, 1, 2].filter((axis) => !(zoom[axis] >= 1 / MOST_ZOOM && zoom[axis] <= MOST_ZOOM));
  if (far.length) {
    return far.map((axis) => `its spacing along ${"xyz"[axis]}, ${short(spacing[axis])} mm, is far from the ${short(grid[axis])} mm of ${entry}`);
  }
  const finest = Math.abs(Math.log2(Math.min(...zoom)));
  if (finest <= 0.5 + ROUNDING) return [];
  return [`its finest spacing is ${short(Math.min(...spacing))} mm, but ${entry} was trained at about ${short(Math.min(...grid))} mm`];
}

function ofExtent(spacing, { source }, known) {
  return known.extent_mm.flatMap(([low, high], axis) => {
    const extent = source.shape[axis] * spacing[axis];
    if (extent >= low / EXTENT_SLACK && extent <= high * EXTENT_SLACK) return [];
    return [`its field of view along ${"xyz"[axis]} is ${extent.toFixed(0)} mm; in the training scans it is ${low.toFixed(0)} to ${high.toFixed(0)} mm`];
  });
}

function ofIntensity(image, names, known) {
  const size = product(image.shape);
  return names.flatMap((name, number) => {
    const channel = image.data.subarray(number * size, (number + 1) * size);
    const mean = channel.reduce((total, value) => total + value, 0) / size;
    const spread = Math.sqrt(channel.reduce((total, value) => total + (value - mean) ** 2, 0) / size);
    const measured = [["mean", mean, known.intensity_mean[number]], ["spread", spread, known.intensity_std[number]]];
    return measured.flatMap(([what, value, [low, high]]) => {
      const slack = INTENSITY_SLACK * (high - low);
      if (value >= low - slack && value <= high + slack) return [];
      return [`the ${what} of its normalised ${name} is ${value.toFixed(2)}; in the training scans it is ${low.toFixed(2)} to ${high.toFixed(2)}`];
    });
  });
}
