// Intensities as the network expects them. export/README.md, step 4. Arithmetic in float32, like the other consumers.

// Normalises every channel of an image { shape, numChannels, data } in place.
export function normalise(image, rule) {
  const size = image.data.length / image.numChannels;
  for (let number = 0; number < image.numChannels; number++) {
    const channel = image.data.subarray(number * size, (number + 1) * size);
    if (rule.kind === "ct") windowed(channel, rule, number);
    else stretched(channel, rule);
  }
}

function windowed(channel, rule, number) {
  const [lower, upper] = [rule.lower[number], rule.upper[number]].map(Math.fround);
  const [mean, std] = [rule.mean[number], rule.std[number]].map(Math.fround);
  for (let place = 0; place < channel.length; place++) {
    channel[place] = Math.fround(Math.min(Math.max(channel[place], lower), upper) - mean) / std;
  }
}

function stretched(channel, rule) {
  const [low, high] = limits(channel, rule);
  const extent = Math.fround(high - low);
  if (extent === 0) {
    channel.fill(0);
    return;
  }
  const least = Math.fround(low);
  for (let place = 0; place < channel.length; place++) {
    // the difference of float32 extremes needs float64
    const share = Number.isFinite(extent) ? Math.fround(channel[place] - least) / extent : (channel[place] - low) / (high - low);
    channel[place] = Math.min(Math.max(share, 0), 1);
  }
}

// The intensities that are mapped to 0 and 1.
export function limits(channel, rule) {
  const content = rule.voxels === "nonzero" ? channel.filter((value) => value !== 0) : channel;
  const sample = content.length ? content : channel;
  const [low, high] = percentiles(sample, [rule.lower, rule.upper]);
  if (low !== high) return [low, high];
  // a small structure on a constant background
  const others = sample.filter((value) => value !== Math.fround(low));
  if (!others.length) return [low, high];
  const [least, most] = percentiles(others, [rule.lower, rule.upper]);
  return [Math.min(low, least), Math.max(high, most)];
}

// Percentiles with linear interpolation between order statistics, in float64.
export function percentiles(values, shares) {
  const sorted = Float32Array.from(values).sort();
  return shares.map((share) => {
    const place = (share / 100) * (sorted.length - 1);
    const below = Math.floor(place);
    const above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
  });
}
