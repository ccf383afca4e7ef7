// The worker: everything that computes, so that the page stays usable. Messages: { load: files }, { segment: files }, { verify: vectors }.
import { verifyVector } from "./conformance.js";
import { engineRunner } from "./engine.js";
import { RareError } from "./errors.js";
import { readScan } from "./scan.js";
import { niftiOfLabels } from "./nifti.js";
import { segment } from "./segment.js";

let manifest = null;
let run = null;

const tasks = {
  load(files) {
    manifest = files.manifest;
    run = engineRunner(files);
    return {};
  },

  async segment(files) {
    const report = (progress) => postMessage({ progress });
    report({ step: "reading" });
    const scan = await readScan(files);
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
