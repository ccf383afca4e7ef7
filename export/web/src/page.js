// The page: takes dropped files, shows progress, errors and results. What computes is in the worker.
import { asset } from "./assets.js";
import { dicomFiles } from "./dicom.js";
import { droppedFiles } from "./dropping.js";
import { Viewer, colourOf } from "./viewer.js";

const find = (name) => document.getElementById(name);
const manifest = JSON.parse(find("manifest").textContent);
const viewer = new Viewer(find("viewer"));
const STEPS = { loading: "Loading the model", reading: "Reading", preparing: "Preparing", segmenting: "Segmenting", restoring: "Restoring", verifying: "Testing" };

// One worker, started before it is needed; a cancelled one is ended and replaced, since WebAssembly cannot be interrupted.
let computing = null;
// The task whose result is awaited; null after a cancel.
let current = null;

function worker() {
  computing ||= startWorker().catch((error) => {
    computing = null;
    throw error;
  });
  return computing;
}

// A fault is shown when the worker is needed.
const startEarly = () => worker().catch(() => {});

async function startWorker() {
  const [library, source] = [await asset("ort.js"), find("worker").textContent];
  const url = URL.createObjectURL(new Blob([library, "\n", source], { type: "text/javascript" }));
  const started = { worker: new Worker(url), pending: null };
  const graphs = {};
  for (const { file } of manifest.engines) graphs[file] = await asset(file);
  const files = { manifest, graphs, runtime: await asset("ort.mjs"), wasm: await asset("ort.wasm"), weights: await asset("weights.safetensors") };
  started.worker.onmessage = ({ data }) => receive(started, data);
  started.worker.onerror = (event) => settle(started, "reject", new Error(`this browser cannot run the page: ${event.message}`));
  const coarsest = manifest.conformance.filter(({ entry }) => new Set(entry).size === 1).at(-1);
  if (coarsest) files.probe = await withFiles(coarsest);
  const { provider } = await ask(started, "load", files);
  find("provider").textContent = provider === "webgpu" ? "Computes in WebGPU, which agrees with a test scan." : "Computes in WebAssembly.";
  document.body.dataset.model = provider;
  return started;
}

function ask(started, task, content) {
  return new Promise((resolve, reject) => {
    started.pending = { resolve, reject };
    started.worker.postMessage({ task, content });
  });
}

function receive(started, { progress, result, error }) {
  if (progress) showProgress(progress);
  else if (error) settle(started, "reject", new Error(error));
  else settle(started, "resolve", result);
}

function settle(started, how, value) {
  started.pending?.[how](value);
  started.pending = null;
}

// Runs a task in the worker, and shows its progress. onResult is not called if the task failed or was cancelled.
async function perform(task, makeContent, onResult) {
  const own = {};
  current = own;
  setBusy(true);
  showError(null);
  try {
    showProgress({ step: "loading" });
    const content = await makeContent();
    const started = await worker();
    if (current !== own) return;
    const result = await ask(started, task, content);
    if (current === own) onResult(result);
  } catch (error) {
    if (current === own) showError(error.message);
  } finally {
    if (current === own) setBusy(false);
  }
}

async function cancel() {
  current = null;
  setBusy(false);
  find("words").textContent = "Cancelled.";
  const started = await startEarly();
  if (!started?.pending) return; // the model was still being loaded
  started.worker.terminate();
  computing = null;
  startEarly();
}

function setBusy(busy) {
  find("cancel").hidden = !busy;
  find("progress").hidden = !busy;
  for (const part of document.querySelectorAll("input[type=file], #verify")) part.disabled = busy;
  document.body.dataset.state = busy ? "busy" : "ready";
}

function showProgress({ step, done, total }) {
  const bar = find("progress");
  if (total > 1) bar.value = done / total;
  else bar.removeAttribute("value");
  find("words").textContent = STEPS[step] + (total > 1 ? ` ${done + 1} of ${total}` : "") + " ...";
}

function showError(text) {
  find("error").hidden = text === null;
  find("error").textContent = text ?? "";
  if (text !== null) find("words").textContent = "";
}

function segmentFiles(files, fileName) {
  if (!files.length || document.body.dataset.state === "busy") return;
  const name = fileName.replace(/\.nii(\.gz)?$/, "").replace(/_0000$/, "");
  find("result").hidden = true;
  const started = performance.now();
  perform("segment", () => withConverter(files), (result) => {
    find("words").textContent = `Segmented in ${((performance.now() - started) / 1000).toFixed(1)} s.`;
    showResult(name, result);
  });
}

// What the worker needs for the files: of DICOM only the DICOM, and dcm2niix.
async function withConverter(files) {
  const images = await dicomFiles(files);
  if (!images.length) return { files };
  return { files: images, converter: { module: await asset("dcm2niix.js"), wasm: await asset("dcm2niix.wasm") } };
}

function showResult(name, { labels, entry, reason, volumes, warnings, notes, file, scan }) {
  find("result").hidden = false;
  find("case").textContent = name;
  find("route").textContent = `Segmented at ${entry}: ${reason}.`;
  find("warnings").replaceChildren(...[...notes, ...warnings].map((text) => element("li", text)));
  find("volumes").replaceChildren(...volumes.map(({ name: label, mm3 }, index) => row(label, mm3, colourOf(index))));
  viewer.show(scan, labels, manifest.spec.plan.label_values);
  offer(file, `${name}_labels.nii.gz`);
}

function row(label, mm3, colour) {
  const box = element("span", "");
  box.className = "box";
  box.style.background = `rgb(${colour.join(",")})`;
  const head = element("th", "");
  head.scope = "row";
  head.append(box, label);
  const volume = element("td", mm3.toFixed(1));
  volume.className = "n";
  const line = element("tr", "");
  line.append(head, volume);
  return line;
}

function element(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

async function offer(file, name) {
  const packed = await new Response(new Blob([file]).stream().pipeThrough(new CompressionStream("gzip"))).blob();
  const link = find("save");
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(packed);
  link.download = name;
  document.body.dataset.result = name;
}

async function withFiles(vector) {
  const files = {};
  for (const part of ["scan", "labels", "arrays"]) files[part] = await asset(vector[part].file);
  return { vector, files };
}

function verify() {
  perform("verify", async () => {
    const vectors = [];
    for (const vector of manifest.conformance) vectors.push(await withFiles(vector));
    return vectors;
  }, ({ lines }) => {
    find("words").textContent = `${lines.length} of ${lines.length} test scans agree.`;
    find("verified").replaceChildren(...lines.map((line) => element("li", line)));
  });
}

async function dropped(event) {
  event.preventDefault();
  find("drop").classList.remove("over");
  const { name, files } = await droppedFiles(event.dataTransfer);
  segmentFiles(files, name);
}

for (const input of document.querySelectorAll("input[type=file]")) {
  input.addEventListener("click", () => (input.value = "")); // so that the same scan can be chosen again
  input.addEventListener("change", () => segmentFiles([...input.files], input.files[0]?.webkitRelativePath.split("/")[0] || input.files[0]?.name));
}
find("cancel").addEventListener("click", cancel);
find("verify")?.addEventListener("click", verify);
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  find("drop").classList.add("over");
});
document.addEventListener("dragleave", () => find("drop").classList.remove("over"));
document.addEventListener("drop", dropped);
setBusy(false);
requestAnimationFrame(() => setTimeout(startEarly)); // behind the first paint
