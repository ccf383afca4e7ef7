// The header of a NIfTI file, checked before anything is allocated, with the words of rarecli/core/imaging/nifti_header.py.
// Source of the layouts: nifti1.h and nifti2.h.
import { RareError, gigabytes, listed } from "./errors.js";
import { product, requireOrthogonal, spacingOf } from "./geometry.js";

export const MOST_BYTES = 2 ** 32; // what 32-bit WebAssembly can address
const MOST_EXTENSION_BYTES = 2 ** 24;
const MOST_GZIP_RATIO = 1032; // the most that deflate can reach
const BYTES_PER_VOXEL = 8; // the scan in float32, and a copy in another axis order
const MM_PER_UNIT = { 0: 1, 1: 1e3, 2: 1, 3: 1e-3 };

// NIfTI codes of plain numbers: the array that holds them.
export const KINDS = {
  2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 64: Float64Array,
  256: Int8Array, 512: Uint16Array, 768: Uint32Array, 1024: BigInt64Array, 1280: BigUint64Array,
};

// name: [offset, how DataView reads it, bytes of one value]
const NIFTI_1 = {
  bytes: 348, magic: 344, dim: [40, "Int16", 2], intent: [56, 12], intent_code: [68, "Int16", 2], datatype: [70, "Int16", 2], bitpix: [72, "Int16", 2], pixdim: [76, "Float32", 4],
  vox_offset: [108, "Float32", 4], scl_slope: [112, "Float32", 4], scl_inter: [116, "Float32", 4], xyzt_units: [123, "Uint8", 1], qform_code: [252, "Int16", 2],
  sform_code: [254, "Int16", 2], quatern: [256, "Float32", 4], qoffset: [268, "Float32", 4], srow: [280, "Float32", 4],
  free: [[4, 28], [124, 8], [148, 104], [328, 16]], // data_type and db_name, cal_max and cal_min, descrip and aux_file, intent_name
};
const NIFTI_2 = {
  bytes: 540, magic: 4, dim: [16, "BigInt64", 8], intent: [80, 24], intent_code: [504, "Int32", 4], datatype: [12, "Int16", 2], bitpix: [14, "Int16", 2], pixdim: [104, "Float64", 8],
  vox_offset: [168, "BigInt64", 8], scl_slope: [176, "Float64", 8], scl_inter: [184, "Float64", 8], xyzt_units: [500, "Int32", 4], qform_code: [344, "Int32", 4],
  sform_code: [348, "Int32", 4], quatern: [352, "Float64", 8], qoffset: [376, "Float64", 8], srow: [400, "Float64", 8],
  free: [[192, 16], [240, 104], [508, 16]],
};

export const isNifti2 = (start) => String.fromCharCode(...start.subarray(4, 8)) === "n+2\0";
export const headerBytes = (start) => (isNifti2(start) ? NIFTI_2.bytes : NIFTI_1.bytes);

// A header with get(name, index) and set(name, value, index). Throws a RareError for anything else.
export function parseHeader(start) {
  const layout = isNifti2(start) ? NIFTI_2 : NIFTI_1;
  if (start.length < layout.bytes) {
    const expected = `a NIfTI header of ${layout.bytes} bytes`;
    throw new RareError("the file is cut short", { found: `${start.length} bytes`, expected, remedy: "copy the file again" });
  }
  const magic = String.fromCharCode(...start.subarray(layout.magic, layout.magic + 4));
  if (layout === NIFTI_1 && magic !== "n+1\0") {
    throw new RareError("not a NIfTI file", { found: `magic bytes ${JSON.stringify(magic)}`, expected: String.raw`"n+1\0" or "n+2\0"` });
  }
  const view = new DataView(start.buffer, start.byteOffset, layout.bytes);
  const little = view.getInt32(0, true) === layout.bytes;
  if (!little && view.getInt32(0, false) !== layout.bytes) {
    throw new RareError("the header is broken", { field: "sizeof_hdr", found: view.getInt32(0, true), expected: layout.bytes });
  }
  const place = (name, index) => layout[name][0] + index * layout[name][2];
  return {
    layout, view, little,
    get: (name, index = 0) => Number(view[`get${layout[name][1]}`](place(name, index), little)),
    set: (name, value, index = 0) => {
      const kind = layout[name][1];
      view[`set${kind}`](place(name, index), kind === "BigInt64" ? BigInt(value) : value, little);
    },
  };
}

// { shape, numChannels, offset, slope, inter } of a header. Throws a RareError for impossible values.
export function requirePlausible(header, fileBytes, packed) {
  const sizes = sizesOf(header);
  const datatype = header.get("datatype");
  if (!KINDS[datatype]) {
    throw new RareError("the voxel type is not a plain number", { field: "datatype", found: datatype, expected: "integers or floats (no RGB, no complex)" });
  }
  const least = header.layout.bytes + 4; // the header and the flag for extensions
  const offset = header.get("vox_offset") === 0 ? least : header.get("vox_offset");
  if (!(offset >= least && offset <= MOST_EXTENSION_BYTES)) {
    throw new RareError("the header is broken", { field: "vox_offset", found: offset, expected: `${least} to ${MOST_EXTENSION_BYTES}` });
  }
  requireSize(sizes, Math.floor(offset) + KINDS[datatype].BYTES_PER_ELEMENT * product(sizes), fileBytes, packed);
  const [slope, inter] = [header.get("scl_slope"), header.get("scl_inter")];
  const scales = Number.isFinite(slope) && slope !== 0;
  if (scales && !Number.isFinite(inter)) {
    throw new RareError("the header is broken", { field: "scl_inter", found: inter, expected: "a finite intercept" });
  }
  const [x, y, z, numChannels = 1] = channelsLast(sizes);
  return { shape: [x, y, z], numChannels, offset: Math.floor(offset), slope: scales ? slope : 1, inter: scales ? inter : 0 };
}

function sizesOf(header) {
  const numAxes = header.get("dim");
  if (!(numAxes >= 1 && numAxes <= 7)) throw new RareError("the header is broken", { field: "dim[0]", found: numAxes, expected: "1 to 7 axes" });
  const sizes = Array.from({ length: numAxes }, (_, axis) => header.get("dim", axis + 1));
  if (sizes.some((size) => size < 1)) throw new RareError("the header is broken", { field: "dim", found: listed(sizes), expected: "positive sizes" });
  return sizes;
}

function requireSize(sizes, numBytes, fileBytes, packed) {
  const mostBytes = packed ? fileBytes * MOST_GZIP_RATIO : fileBytes;
  if (numBytes > mostBytes) {
    throw new RareError("the header declares more voxels than the file can hold", {
      field: "dim",
      found: `${sizes.join(" x ")} (${numBytes} bytes)`,
      expected: `at most ${mostBytes} bytes`,
    });
  }
  requireMemory(product(sizes) * BYTES_PER_VOXEL, "reading the scan");
}

export function requireMemory(needed, what) {
  if (needed > MOST_BYTES) {
    throw new RareError(`${what} takes more memory than this browser has`, {
      found: `at least ${gigabytes(needed)} needed`,
      expected: `at most ${gigabytes(MOST_BYTES)}`,
      remedy: "crop the scan, check the sizes and the spacing in its header, or use rare predict",
    });
  }
}

// [X, Y, Z] or [X, Y, Z, C]; (X, Y, Z, 1, C) is the NIfTI layout of vectors.
function channelsLast(all) {
  const isSurface = all.slice(0, 3).join() === "27307,1,6"; // how FreeSurfer writes 163842 values; source: nibabel
  const sizes = isSurface ? [163842, 1, 1, ...all.slice(3)] : [...all];
  while (sizes.length > 3 && sizes.at(-1) === 1) sizes.pop();
  while (sizes.length < 3) sizes.push(1);
  if (sizes.length === 5 && sizes[3] === 1) sizes.splice(3, 1);
  if (sizes.length > 4) throw new RareError("too many axes", { field: "dim", found: `shape (${sizes.join(", ")})`, expected: "(X, Y, Z) or (X, Y, Z, channels)" });
  return sizes;
}

// The affine in mm, as three rows: the sform if it is set, else the qform, else one made of pixdim alone (added to `notes`).
export function affineMm(header, notes) {
  const [hasSform, hasQform] = [header.get("sform_code") !== 0, header.get("qform_code") !== 0];
  const pixdim = [1, 2, 3].map((axis) => Math.abs(header.get("pixdim", axis)));
  if (!hasSform && !pixdim.every((mm) => Number.isFinite(mm) && mm > 0)) {
    const expected = "positive numbers, or a valid sform";
    throw new RareError("the spacing is unknown", { field: "pixdim", found: listed(pixdim), expected, remedy: "write the true spacing into the header" });
  }
  let [affine, field] = [null, "srow"];
  if (hasSform) affine = [0, 1, 2].map((row) => [0, 1, 2, 3].map((axis) => header.get("srow", 4 * row + axis)));
  else if (hasQform) [affine, field] = [qform(header), "qform"];
  else {
    [affine, field] = [withoutForms(header), "pixdim"];
    notes.push("neither sform nor qform is set: orientation unknown, taken as the array's own axes with the spacing of pixdim");
  }
  notes.push(...requireOrthogonal(affine, field));
  const spacing = spacingOf(affine);
  if (hasSform && hasQform && pixdim.every(Number.isFinite) && spacing.some((mm, axis) => Math.abs(mm - pixdim[axis]) > 1e-2 * mm)) {
    throw new RareError("sform and qform disagree on the spacing", {
      field: "srow, pixdim",
      found: `sform ${listed(spacing.map((mm) => Number(mm.toFixed(5))))}, qform ${listed(pixdim.map((mm) => Number(mm.toFixed(5))))}`,
      expected: "one spacing",
      remedy: "correct the wrong one, or set its code to 0",
    });
  }
  const code = header.get("xyzt_units") % 8;
  if (!(code in MM_PER_UNIT)) {
    throw new RareError("the unit of length is unknown", { field: "xyzt_units", found: code, expected: "0 (unknown), 1 (m), 2 (mm) or 3 (micron)" });
  }
  return affine.map((row) => row.map((value) => value * MM_PER_UNIT[code]));
}

// Source: nibabel's get_base_affine: x points to the left, and the middle of the array is the origin.
function withoutForms(header) {
  const numAxes = header.get("dim");
  const along = (name, axis) => (axis < numAxes ? header.get(name, axis + 1) : 1);
  return [0, 1, 2].map((row) => {
    const step = (row === 0 ? -1 : 1) * along("pixdim", row);
    return [0, 1, 2].map((axis) => (axis === row ? step : 0)).concat((-step * (along("dim", row) - 1)) / 2);
  });
}

function qform(header) {
  const [handedness, ...pixdim] = [0, 1, 2, 3].map((index) => header.get("pixdim", index));
  if (Math.min(...pixdim) < 0) {
    throw new RareError("the qform's spacing is negative", { field: "pixdim", found: listed(pixdim), expected: "positive numbers" });
  }
  if (Math.abs(handedness) !== 1) {
    throw new RareError("the qform's handedness is unknown", { field: "pixdim[0]", found: handedness, expected: "1 or -1" });
  }
  const [b, c, d] = [0, 1, 2].map((index) => header.get("quatern", index));
  const rest = 1 - (b * b + c * c + d * d);
  const rounding = 3 * (header.layout.bytes === NIFTI_2.bytes ? Number.EPSILON : 2 ** -23);
  if (!(rest > -rounding)) {
    throw new RareError("the qform's quaternion is not a rotation", { field: "quatern", found: listed([b, c, d]), expected: "a length of at most 1" });
  }
  const rotation = rotationOf(rest < rounding ? 0 : Math.sqrt(rest), b, c, d);
  const steps = [pixdim[0], pixdim[1], pixdim[2] * handedness];
  return rotation.map((values, row) => [...values.map((value, axis) => value * steps[axis]), header.get("qoffset", row)]);
}

// The rotation of a quaternion, normalised.
function rotationOf(a, b, c, d) {
  const s = 2 / (a * a + b * b + c * c + d * d);
  return [
    [1 - s * (c * c + d * d), s * (b * c - a * d), s * (b * d + a * c)],
    [s * (b * c + a * d), 1 - s * (b * b + d * d), s * (c * d - a * b)],
    [s * (b * d - a * c), s * (c * d + a * b), 1 - s * (b * b + c * c)],
  ];
}
