// Reads scans and writes labels as NIfTI: rarecli/core/imaging/nifti.py and formats/writers.py in the browser.
import { RareError } from "./errors.js";
import { product } from "./geometry.js";
import { KINDS, affineMm, headerBytes, parseHeader, requirePlausible } from "./nifti_header.js";

const MOST_BYTES_AFTER = 2 ** 20;
const LABELS = 1002; // the intent NIFTI_INTENT_LABEL: viewers show the voxels as labels
const LARGEST_BYTE = 255;
const LARGEST_SHORT = 65535;

// A scan from a Blob: { shape, channels: one Float32Array each, X fastest, affine: three rows in mm, header, notes }.
// Throws a RareError with the path for a broken file.
export async function readNifti(name, blob) {
  try {
    return await read(name, blob);
  } catch (error) {
    if (error instanceof DOMException) {
      throw new RareError("the file cannot be read", { path: name, found: error.message, expected: "a file, not a folder", remedy: "choose it again" });
    }
    if (error instanceof RareError) error.parts.path = name;
    throw error;
  }
}

async function read(name, blob) {
  if (!/\.nii(\.gz)?$/.test(name)) {
    throw new RareError("not a NIfTI file name", { found: name, expected: "a name ending in .nii or .nii.gz" });
  }
  const magic = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  const packed = magic[0] === 0x1f && magic[1] === 0x8b;
  if (magic.length && packed !== name.endsWith(".gz")) {
    const [found, expected] = packed ? ["gzip", "no gzip"] : ["no gzip", "gzip"];
    throw new RareError("the file is not what its name says", { found, expected, remedy: "rename it" });
  }
  const stream = new ByteStream(packed ? blob.stream().pipeThrough(new DecompressionStream("gzip")) : blob.stream());
  let start = await stream.read(348);
  if (headerBytes(start) > start.length) start = joined([start, await stream.read(headerBytes(start) - start.length)]);
  const header = parseHeader(start);
  const facts = requirePlausible(header, blob.size, packed);
  const notes = [];
  const affine = affineMm(header, notes);
  const skipped = facts.offset - start.length;
  await stream.read(skipped);
  const kind = KINDS[header.get("datatype")];
  const numBytes = facts.numChannels * product(facts.shape) * kind.BYTES_PER_ELEMENT;
  const raw = await stream.read(numBytes);
  if (raw.length < numBytes) {
    const expected = `${skipped + numBytes} bytes`;
    throw new RareError("the file is cut short", { found: `${skipped + raw.length} bytes behind the header`, expected, remedy: "copy the file again" });
  }
  if (packed && (await stream.read(MOST_BYTES_AFTER + 1)).length > MOST_BYTES_AFTER) {
    // only at the end of the stream does gzip compare the checksum
    throw new RareError("the file continues after its voxels", { found: `over ${MOST_BYTES_AFTER} more bytes`, expected: "the end of the file" });
  }
  await stream.close();
  const voxels = voxelsOf(raw, kind, header.little, facts);
  const size = product(facts.shape);
  const channels = Array.from({ length: facts.numChannels }, (_, number) => voxels.subarray(number * size, (number + 1) * size));
  requireFinite(channels, facts.shape);
  return { shape: facts.shape, channels, affine, header, notes };
}

// Reads a ReadableStream by numbers of bytes.
class ByteStream {
  constructor(stream) {
    this.reader = stream.getReader();
    this.rest = new Uint8Array(0);
  }

  // Up to `size` more bytes, fewer at the end.
  async read(size) {
    const parts = [];
    let missing = size;
    while (missing > 0) {
      if (!this.rest.length) {
        const { done, value } = await this.next();
        if (done) break;
        this.rest = value;
      }
      const part = this.rest.subarray(0, missing);
      this.rest = this.rest.subarray(part.length);
      missing -= part.length;
      parts.push(part);
    }
    return joined(parts);
  }

  async next() {
    try {
      return await this.reader.read();
    } catch (error) {
      if (error instanceof DOMException) throw error;
      const expected = "one full gzip stream";
      throw new RareError("the compressed file is broken", { found: error.message, expected, remedy: "copy the file again, or unpack it" });
    }
  }

  async close() {
    await this.reader.cancel();
  }
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}

function voxelsOf(raw, kind, little, { slope, inter }) {
  const bytes = kind.BYTES_PER_ELEMENT;
  if (!little && bytes > 1) {
    for (let place = 0; place < raw.length; place += bytes) raw.subarray(place, place + bytes).reverse();
  }
  const stored = new kind(raw.buffer, 0, raw.length / bytes);
  const isPlain = slope === 1 && inter === 0;
  if (isPlain && kind === Float32Array) return stored;
  const voxels = new Float32Array(stored.length);
  for (let place = 0; place < stored.length; place++) voxels[place] = Number(stored[place]) * slope + inter;
  return voxels;
}

function requireFinite(channels, [sizeX, sizeY, sizeZ]) {
  let [num, first] = [0, null];
  channels.forEach((channel, number) => {
    for (let place = 0; place < channel.length; place++) {
      if (Number.isFinite(channel[place])) continue;
      num += 1;
      const index = [number, place % sizeX, Math.floor(place / sizeX) % sizeY, Math.floor(place / sizeX / sizeY)];
      if (first === null || isBefore(index, first)) first = index;
    }
  });
  if (num) {
    throw new RareError("the scan has voxels that are not finite", {
      found: `${num} NaN or infinite voxels, the first at (channel, x, y, z) = (${first.join(", ")})`,
      expected: "finite intensities",
      remedy: "repair the scan, e.g. numpy.nan_to_num",
    });
  }
}

function isBefore(one, other) {
  const place = one.findIndex((value, axis) => value !== other[axis]);
  return place >= 0 && one[place] < other[place];
}

// The bytes of a NIfTI file with labels, an array with X fastest, on the grid of a scan. Codes, units and both forms of the header stay;
// free text, which may name the patient, goes.
export function niftiOfLabels(labels, { shape, header }) {
  const largest = labels.reduce((most, label) => Math.max(most, label), 0);
  const [code, kind] = largest <= LARGEST_BYTE ? [2, Uint8Array] : largest <= LARGEST_SHORT ? [512, Uint16Array] : [8, Int32Array];
  const { layout, view } = header;
  const offset = layout.bytes + 4;
  const file = new Uint8Array(offset + labels.length * kind.BYTES_PER_ELEMENT);
  file.set(new Uint8Array(view.buffer, view.byteOffset, layout.bytes));
  for (const [start, length] of [...layout.free, layout.intent]) file.fill(0, start, start + length);
  const copy = parseHeader(file);
  [3, ...shape, 1, 1, 1, 1].forEach((size, index) => copy.set("dim", size, index));
  [4, 5, 6, 7].forEach((index) => copy.set("pixdim", 1, index));
  copy.set("intent_code", LABELS);
  copy.set("datatype", code);
  copy.set("bitpix", 8 * kind.BYTES_PER_ELEMENT);
  copy.set("vox_offset", offset);
  copy.set("scl_slope", 1);
  copy.set("scl_inter", 0);
  const voxels = new DataView(file.buffer, offset);
  const write = { 2: "setUint8", 512: "setUint16", 8: "setInt32" }[code];
  labels.forEach((label, place) => voxels[write](place * kind.BYTES_PER_ELEMENT, label, copy.little));
  return file;
}
