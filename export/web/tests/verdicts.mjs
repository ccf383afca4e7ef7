// Reads the files that are named on stdin, one a line, and prints for each a line of JSON: the problem, or what was read.
import { openAsBlob } from "node:fs";
import { basename } from "node:path";
import { createInterface } from "node:readline";
import { RareError } from "../src/errors.js";
import { readNifti } from "../src/nifti.js";

for await (const path of createInterface({ input: process.stdin })) {
  let verdict;
  try {
    const { shape, affine, channels } = await readNifti(basename(path), await openAsBlob(path));
    verdict = { shape, affine, channels: channels.map((channel) => [...channel]) };
  } catch (error) {
    if (!(error instanceof RareError)) throw error;
    verdict = { problem: error.problem, text: error.text };
  }
  process.stdout.write(`${JSON.stringify(verdict)}\n`);
}
