// Runs the graphs of the page in onnxruntime-web, whose global `ort` the worker has loaded.
import { RareError } from "./errors.js";
import { product } from "./geometry.js";
import { weightsOf } from "./safetensors.js";

// Returns { open(engine), run(engine, data, shape), graphs, provider }. run: a window (C, X, Y, Z) -> its logits (K, X, Y, Z), both Float32Array.
// provider: "webgpu" or "wasm". files: { runtime, wasm, weights, graphs: { engine file: bytes } } as bytes. Only the session of the last engine is kept.
export function engineRunner({ runtime, wasm, weights, graphs }, provider = "wasm") {
  withoutSuspension();
  ort.env.wasm.numThreads = 1; // a page from file:// has no SharedArrayBuffer
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([runtime], { type: "text/javascript" })) };
  const data = weightsOf(weights);
  let current = { file: null, session: null };

  const open = async (engine) => {
    if (current.file === engine.file) return;
    if (current.session) await current.session.release();
    current = { file: null, session: null };
    const session = await ort.InferenceSession.create(graphs[engine.file], {
      executionProviders: [provider],
      logSeverityLevel: 3, // errors; it would warn that shapes are computed on the CPU
      externalData: [{ path: "weights.bin", data }],
    });
    current = { file: engine.file, session };
  };

  const run = async (engine, image, shape) => {
    try {
      await open(engine);
      const tensor = new ort.Tensor("float32", image, [1, image.length / product(shape), ...shape]);
      const results = await current.session.run({ [engine.input.name]: tensor });
      const logits = results[engine.output.name].data;
      if (!logits.every(Number.isFinite)) throw new RareError("the engine returned logits that are not finite", { path: engine.file });
      return logits;
    } catch (error) {
      throw error instanceof RareError ? error : meaning(error, engine);
    }
  };
  return { open, run, graphs, provider };
}

// onnxruntime's WebAssembly waits for WebGPU by suspending itself (JSPI). In a browser that cannot, it computes without WebGPU and never waits.
function withoutSuspension() {
  WebAssembly.Suspending ??= function (run) {
    return run;
  };
  WebAssembly.promising ??= (run) => async (...values) => run(...values);
}

// The RareError for what onnxruntime throws: numbers are C++ exceptions, which it throws when memory is short.
function meaning(error, engine) {
  const words = String(error?.message ?? error);
  if (typeof error === "number" || /alloc|memory|out of bounds|abort/i.test(words)) {
    return new RareError("the scan needs more memory than this browser gives", { found: words, remedy: "crop the scan, or use rare predict" });
  }
  return new RareError("the engine cannot be run", { path: engine.file, found: words, remedy: "use another browser, or rare predict" });
}
