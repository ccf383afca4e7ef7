// The golden cases that every implementation reproduces.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { route } from "../src/routing.js";

const golden = JSON.parse(readFileSync(new URL("../../../tests/golden/routing_cases.json", import.meta.url)));
const rest = { trained_spacing_mm: golden.trained_spacing_mm, tolerance: golden.tolerance, as_is_anisotropy_octaves: 0.2, rounding_slack: 1e-6 };
const depths = Array.from({ length: golden.num_depths }, (_, depth) => [depth, depth, depth]);
const enginesOf = (entries) =>
  entries.map((entry) => ({ entry, grid_spacing_mm: entry.map((depth, axis) => golden.trained_spacing_mm[axis] * 2 ** depth) }));

function requireRoute(given, entry, entries, rule) {
  const { engine, zoom } = route(given.spacing_mm, { engines: enginesOf(entries), routing: { ...rest, ...rule } });
  assert.deepEqual(engine.entry, entry);
  assert.deepEqual(zoom.map((factor) => factor !== 1), given.resampled);
}

for (const given of [...golden.cases, ...golden.as_is_cases]) {
  const asIs = golden.as_is_cases.includes(given) ? golden.as_is_octaves : 0;
  test(`finest: ${given.why}`, () => {
    requireRoute(given, [given.depth, given.depth, given.depth], [...depths, [0, 0, 3]], { by: "finest", as_is_octaves: asIs });
  });
}

for (const given of [...golden.nearest.cases, ...golden.nearest.other_entries]) {
  const entries = given.entries ?? golden.nearest.entries;
  test(`nearest: ${given.why}`, () => {
    for (const order of [entries, [...entries].reverse()]) {
      requireRoute(given, given.entry, order, { by: "nearest", as_is_octaves: golden.nearest.as_is_octaves });
    }
  });
}

test("a spacing that is not positive is refused", () => {
  const manifest = { engines: enginesOf(depths), routing: { ...rest, by: "finest", as_is_octaves: 0 } };
  assert.throws(() => route([1, 0, 1], manifest), { problem: "the spacing is not finite and positive" });
});
