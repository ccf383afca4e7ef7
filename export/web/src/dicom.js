// Reads DICOM: dcm2niix in WebAssembly makes a NIfTI file of a series.
import { RareError } from "./errors.js";

const DICOM_FOLDER = "/dicom";
const NIFTI_FOLDER = "/nifti";
// No sidecars, nothing packed, axes as they were acquired, values as they are displayed.
const OPTIONS = ["-b", "n", "-z", "n", "-x", "i", "-p", "n", "-f", "%s_%d", "-o", NIFTI_FOLDER, DICOM_FOLDER];

// The files that are DICOM by their content; none beside a file that is NIfTI by its name.
export async function dicomFiles(files) {
  if (files.some(({ name }) => /\.nii(\.gz)?$/.test(name))) return [];
  const marks = await Promise.all(files.map((file) => file.slice(128, 132).text()));
  return files.filter((_, place) => marks[place] === "DICM");
}

// { file, notes }: a NIfTI file with the only volume in DICOM files, and what dcm2niix warns of. converter: { module, wasm } as bytes.
export async function niftiOfSeries(files, converter) {
  const said = [];
  const say = (line) => said.push(line);
  const url = URL.createObjectURL(new Blob([converter.module], { type: "text/javascript" }));
  const { default: start } = await import(url);
  URL.revokeObjectURL(url);
  const dcm2niix = await start({ wasmBinary: converter.wasm, locateFile: (name) => name, print: say, printErr: say });
  dcm2niix.FS.mkdir(DICOM_FOLDER);
  dcm2niix.FS.mkdir(NIFTI_FOLDER);
  for (const [number, file] of files.entries()) {
    dcm2niix.FS.writeFile(`${DICOM_FOLDER}/${number}.dcm`, new Uint8Array(await file.arrayBuffer()));
  }
  try {
    dcm2niix.callMain(OPTIONS);
  } catch (error) {
    say(String(error));
  }
  const made = dcm2niix.FS.readdir(NIFTI_FOLDER).filter((name) => name.endsWith(".nii"));
  requireOneVolume(made, said);
  return { file: new File([dcm2niix.FS.readFile(`${NIFTI_FOLDER}/${made[0]}`)], made[0]), notes: said.filter((line) => /^warning/i.test(line)) };
}

function requireOneVolume(made, said) {
  if (made.length === 1) return;
  if (made.length) {
    throw new RareError("the DICOM files hold more than one volume", { found: made.join(", "), expected: "one series", remedy: "drop the files of one series" });
  }
  throw new RareError("the DICOM files are no volume", { found: said.slice(-3).join("; "), expected: "the images of one series", remedy: "use rare predict, which reads more kinds" });
}
