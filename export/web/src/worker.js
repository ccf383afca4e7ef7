// The worker: everything that computes, so that the page stays usable. Messages: { task, content }, of the tasks below.
import { verifyVector } from "./conformance.js";
import { niftiOfSeries } from "./dicom.js";
import { engineRunner } from "./engine.js";
import { RareError } from "./errors.js";
import { readScan } from "./scan.js";
import { niftiOfLabels } from "./nifti.js";
import { segment } from "./segment.js";

let manifest = null;
let run = null;

const tasks = {
  // Also opens the engine of the trained spacing, which most scans need. probe: a conformance vector and its files, if the manifest has any.
  async load(files) {
    manifest = files.manifest;
    const runner = (await onGpu(files)) ?? engineRunner(files);
    run = runner.run;
    await runner.open(manifest.engines[0]);
    return { provider: runner.provider };
  },

  // converter: dcm2niix, if the files are DICOM.
  async segment({ files, converter }) {
    const report = (progress) => postMessage({ progress });
    report({ step: "reading" });
    const series = converter ? await niftiOfSeries(files, converter) : null;
    const scan = await readScan(series ? [series.file] : files);
    if (series) scan.notes.push(...series.notes);
    const result = await segment(scan, manifest, run, report);
    const { shape, affine, channels, notes } = scan;
    const file = niftiOfLabels(result.labels, scan);
    return { ...result, file, notes, scan: { shape, affine, data: channels[0] } };
  },

  async verify(vectors) {
    const lines = [];
    for (const [done, { vector, files }] of vectors.entries()) {
      postMessage({ progress: { step: "verifying", done, total: vectors.length } });
      lines.push(await verifyVector(vector, files, manifest, run));
    }
    return { lines };
  },
};

// A runner in WebGPU, if there is an adapter and the probe's logits and labels agree; else null.
async function onGpu({ probe, ...files }) {
  if (!probe || !(await self.navigator.gpu?.requestAdapter())) return null;
  const runner = engineRunner(files, "webgpu");
  try {
    await verifyVector(probe.vector, probe.files, manifest, runner.run);
    return runner;
  } catch {
    return null;
  }
}

self.onmessage = async ({ data: { task, content } }) => {
  try {
    postMessage({ task, result: await tasks[task](content) });
  } catch (error) {
    postMessage({ task, error: wordsOf(error) });
  }
};

function wordsOf(error) {
  if (error instanceof RareError) return error.text;
  if (error instanceof RangeError) {
    return new RareError("the scan needs more memory than this browser gives", { found: error.message, remedy: "crop the scan, or use rare predict" }).text;
  }
  return new RareError(`this is a bug in rare: ${error.name}: ${error.message}`, { remedy: "report it, with the browser's console" }).text;
}
