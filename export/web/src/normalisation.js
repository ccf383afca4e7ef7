// Intensities as the network expects them. export/README.md, step 4. Arithmetic in float32, like the other consumers.

// Normalises every channel of an image { shape, numChannels, data } in place.
export function normalise(image, rule) {
  const size = image.data.length / image.numChannels;
  for (let number = 0; number < image.numChannels; number++) {
    const channel = image.data.subarray(number * size, (number + 1) * size);
    if (rule.kind === "per-channel") normaliseChannel(channel, rule.rules[number], 0);
    else normaliseChannel(channel, rule, number);
  }
}

function normaliseChannel(channel, rule, number) {
  if (rule.kind === "none") return;
  if (rule.kind === "ct") windowed(channel, rule, number);
  else if (rule.kind === "z-score") stretched(channel, meanAndBeyond(channel), -Infinity, Infinity);
  else stretched(channel, limits(channel, rule), 0, 1);
}

function windowed(channel, rule, number) {
  const [lower, upper] = [rule.lower[number], rule.upper[number]].map(Math.fround);
  const [mean, std] = [rule.mean[number], rule.std[number]].map(Math.fround);
  for (let place = 0; place < channel.length; place++) {
    channel[place] = Math.fround(Math.min(Math.max(channel[place], lower), upper) - mean) / std;
  }
}

// Maps low to 0 and high to 1, within `least` and `most`; a constant channel becomes 0.
function stretched(channel, [low, high], least, most) {
  const extent = Math.fround(high - low);
  if (extent === 0) {
    channel.fill(0);
    return;
  }
  const zero = Math.fround(low);
  for (let place = 0; place < channel.length; place++) {
    // the difference of float32 extremes needs float64
    const share = Number.isFinite(extent) ? Math.fround(channel[place] - zero) / extent : (channel[place] - low) / (high - low);
    channel[place] = Math.min(Math.max(share, least), most);
  }
}

// The mean, and the mean plus the standard deviation; twice the value of a constant channel.
function meanAndBeyond(channel) {
  if (channel.every((value) => value === channel[0])) return [channel[0], channel[0]];
  const mean = channel.reduce((sum, value) => sum + value, 0) / channel.length;
  const variance = channel.reduce((sum, value) => sum + (value - mean) ** 2, 0) / channel.length;
  return [mean, mean + Math.sqrt(variance)];
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
