// Routing: the engine that a scan enters, from its spacing. export/README.md, steps 2 and 3; rarecli/core/imaging/routing.py.
import { RareError, listed, short } from "./errors.js";

const TIE_OCTAVES = 1e-6;
const sum = (values) => values.reduce((total, value) => total + value, 0);

// spacing: mm along RAS axes. manifest: { engines, routing }.
// Returns { engine, zoom, reason }. zoom: spacing / grid spacing for each axis that is resampled, 1 for the others.
export function route(spacing, { engines, routing }) {
  if (!spacing.every((mm) => Number.isFinite(mm) && mm > 0)) {
    throw new RareError("the spacing is not finite and positive", { field: "spacing", found: listed(spacing), expected: "millimetres > 0" });
  }
  const octaves = spacing.map((mm, axis) => Math.log2(mm / routing.trained_spacing_mm[axis]));
  const wanted = octaves.map((octave) => Math.floor(octave + 0.5));
  const engine = routing.by === "nearest" ? nearest(wanted, octaves, engines) : finest(wanted, engines);
  const zoom = zoomTo(spacing, engine.grid_spacing_mm, routing);
  const resampled = ["x", "y", "z"].filter((_, axis) => zoom[axis] !== 1);
  const note = clamped(wanted, engine.entry, engines, routing.by) + (resampled.length ? `; resampled along ${resampled.join(", ")}` : "");
  return { engine, zoom, reason: `spacing ${inMm(spacing)}, grid ${inMm(engine.grid_spacing_mm)}${note}` };
}

export const entryText = (entry) => (isIsotropic(entry) ? `depth ${entry[0]}` : `entry ${entry.join(",")}`);
const isIsotropic = (entry) => entry.every((depth) => depth === entry[0]);

function inMm(spacing) {
  const alike = Math.max(...spacing) - Math.min(...spacing) < 1e-3 * Math.max(...spacing);
  return `${(alike ? [spacing[0]] : spacing).map((mm) => short(mm)).join(" x ")} mm`;
}

// A note for a scan that does not enter where it belongs, or nothing.
function clamped(wanted, chosen, engines, by) {
  const along = (axis) => engines.map(({ entry }) => entry[axis]);
  if (by === "finest") {
    const depths = engines.map(({ entry }) => Math.min(...entry));
    if (Math.min(...wanted) === chosen[0]) return "";
    return `, ${chosen[0] === Math.min(...depths) ? "finest" : chosen[0] === Math.max(...depths) ? "deepest" : "nearest"} entry`;
  }
  if (wanted.join() === chosen.join()) return "";
  const belongs = wanted.map((depth, axis) => Math.min(Math.max(depth, Math.min(...along(axis))), Math.max(...along(axis))));
  if (belongs.join() === chosen.join()) return ", beyond its finest or deepest entry";
  return `, the nearest entry to ${belongs.join()}, which the model does not have`;
}

function nearest(wanted, octaves, engines) {
  const belongs = wanted.map((depth, axis) => Math.max(depth, Math.min(...engines.map(({ entry }) => entry[axis]))));
  const cost = ({ entry }) => [
    Number(entry.some((depth, axis) => depth > belongs[axis])),
    sum(entry.map((depth, axis) => Math.abs(depth - belongs[axis]))),
    Math.floor(sum(entry.map((depth, axis) => Math.abs(octaves[axis] - depth))) / TIE_OCTAVES + 0.5),
    ...entry,
  ];
  return least(engines, cost);
}

function finest(wanted, engines) {
  const isotropic = engines.filter(({ entry }) => isIsotropic(entry));
  const depth = Math.min(...wanted);
  return least(isotropic, ({ entry }) => [Math.abs(entry[0] - depth), ...entry]);
}

// The item with the least key; keys are lists, and their first difference decides.
function least(items, keyOf) {
  const isLess = (one, other) => {
    const place = one.findIndex((value, index) => value !== other[index]);
    return place >= 0 && one[place] < other[place];
  };
  return items.reduce((best, item) => (isLess(keyOf(item), keyOf(best)) ? item : best));
}

function zoomTo(spacing, grid, rule) {
  const ratios = spacing.map((mm, axis) => mm / grid[axis]);
  const off = ratios.map(Math.log2);
  let near = off.map((octave) => Math.abs(octave) <= rule.as_is_octaves + rule.rounding_slack);
  if (rule.by === "finest") {
    const alike = Math.max(...off) - Math.min(...off) <= rule.as_is_anisotropy_octaves + rule.rounding_slack;
    near = near.map(() => alike && near.every(Boolean));
  }
  return ratios.map((ratio, axis) => (near[axis] || Math.abs(ratio - 1) <= rule.tolerance + rule.rounding_slack ? 1 : ratio));
}
