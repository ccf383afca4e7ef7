"""Runs a bundle in headless Chromium, as `segment.html` does: the graphs of the page in onnxruntime-web, on one thread.

Only `rare benchmark` uses it, to measure what a page costs. The steps of a pass are separate, so that moving arrays between the processes
is not counted as computing. Arrays enter the page as files and leave it in parts, because a message of 36 MB did not arrive in 20 s.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from shutil import which
from types import TracebackType
from typing import Any

import numpy as np

from rarecli.core.engines.model_files import find_model
from rarecli.core.engines.page_graphs import page_graph, shared_weights, unpack_weights
from rarecli.core.engines.runner import engine_errors
from rarecli.core.engines.segment_page import joined_modules, packed, packed_runtime, runtime_script, web_folder
from rarecli.core.errors import EnvironmentFault, UsageError, missing_extra
from rarecli.core.types import Entry, FloatArray, IntArray, Shape

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PART_BYTES = 2**20


class BrowserRunner:
    """One page in one browser, opened with the context. See `engines.runner.Runner`, and `stages.Steps` for the steps of a pass."""

    backend = "browser"
    copies = True

    def __init__(self, model: Path, device: str = "auto", num_threads: int | None = None, precision: str = "fp32") -> None:
        files = find_model(model)
        self.rules, bundle = files.rules, files.bundle
        if bundle is None:
            raise UsageError("a run has no engines", field="backend", found=self.backend, remedy="rare export makes a bundle")
        if device not in ("auto", "cpu"):
            raise UsageError("the browser computes on the CPU", field="device", found=device, expected="auto, cpu")
        if num_threads not in (None, 1):
            raise UsageError("a page has one thread", field="threads", found=num_threads, expected=1)
        if precision != "fp32":
            raise UsageError("this backend computes in fp32", field="precision", found=precision, expected="fp32")
        found = next(filter(None, map(which, _NAMES)), None)
        if found is None:
            raise EnvironmentFault("no Chromium was found", expected=" or ".join(_NAMES), remedy="install Chromium")
        try:
            from playwright.sync_api import sync_playwright
        except ImportError:
            raise missing_extra("playwright", "test") from None
        self._start, self._executable = sync_playwright, found
        self._bundle, self._weights, self.entries = bundle, shared_weights(bundle), bundle.manifest.entries
        self._stack, self._loaded = ExitStack(), set[Entry]()
        self._page: Any = None
        self._places: dict[str, int] = {}

    def __enter__(self) -> BrowserRunner:
        self._thread = ThreadPoolExecutor(1)  # playwright refuses a thread with an event loop, such as that of a notebook
        try:
            self._in_thread(self._open)
        except Exception as error:
            self.__exit__(type(error), error, None)
            words = (str(error).strip().splitlines() or [""])[0]
            raise EnvironmentFault("Chromium cannot be started", path=self._executable, found=words) from error
        return self

    def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return self._thread.submit(call, *arguments).result()

    def _open(self) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rare-browser-")))
        self._places = unpack_weights(self._weights, folder / "weights.bin")
        self._file = folder / "array"
        assets = packed_runtime() | {"weights.safetensors": packed(self._weights.read_bytes())}
        scripts = [f'<script type="text/plain" id="asset:{name}">{content}</script>' for name, content in assets.items()]
        scripts.append(f"<script>{runtime_script()}</script>\n<script>{joined_modules(web_folder() / 'src' / 'network.js')}</script>")
        (folder / "page.html").write_text("<!DOCTYPE html><input type=file>" + "\n".join(scripts), encoding="utf-8")
        playwright = self._stack.enter_context(self._start())
        # Chromium refuses its sandbox to root; the page is ours
        browser = playwright.chromium.launch(executable_path=self._executable, args=["--no-sandbox"])
        self._stack.callback(browser.close)
        self._page = browser.new_page()
        self._page.set_default_timeout(0)
        self._page.goto((folder / "page.html").as_uri())
        self._page.evaluate("() => network.load()")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._in_thread(self._stack.close)
        self._thread.shutdown()
        self._loaded.clear()

    def run(self, image: FloatArray, entry: Entry) -> FloatArray:
        """Return logits (B, K, X, Y, Z) float32 for an image (B, C, X, Y, Z) float32."""
        return self.to_host(self.forward(self.put(image), entry))

    def put(self, image: FloatArray) -> tuple[Any, Shape]:
        """Copy an image (B, C, X, Y, Z) float32 to the page; return its handle there, and its shape in space."""
        x, y, z = image.shape[2:]
        self._choose(np.ascontiguousarray(image).tobytes())
        return self._in_thread(self._page.evaluate_handle, "() => network.put()"), (x, y, z)

    def forward(self, image: tuple[Any, Shape], entry: Entry) -> tuple[Any, Shape]:
        """Run the network on an image in the page; return the handle of the logits there, and their shape in space."""
        engine = self._bundle.manifest.engine(entry)
        with engine_errors(self._bundle.path / engine.file):
            if entry not in self._loaded:
                self._choose(page_graph(self._bundle, engine, self._places))
                self._in_thread(self._page.evaluate, "file => network.addGraph(file)", engine.file)
                self._loaded.add(entry)
            handle, shape = image
            tensors = engine.model_dump(mode="json", include={"file", "input", "output"})
            run = "([images, engine, shape]) => network.forward(images, engine, shape)"
            return self._in_thread(self._page.evaluate_handle, run, [handle, tensors, list(shape)]), shape

    def best(self, logits: tuple[Any, Shape]) -> tuple[Any, Shape]:
        """Return the handle of the best classes of logits, in the page, and their shape in space."""
        handle, shape = logits
        return self._in_thread(self._page.evaluate_handle, "([logits, shape]) => network.best(logits, shape)", [handle, list(shape)]), shape

    def fetch(self, classes: tuple[Any, Shape]) -> IntArray:
        """Return classes (B, X, Y, Z) from the page."""
        handle, shape = classes
        return np.stack([np.frombuffer(item, np.uint16).reshape(shape) for item in self._arrays(handle)])

    def to_host(self, logits: tuple[Any, Shape]) -> FloatArray:
        """Return logits (B, K, X, Y, Z) float32 from the page."""
        handle, shape = logits
        return np.stack([np.frombuffer(item, np.float32).reshape(-1, *shape) for item in self._arrays(handle)])

    def _choose(self, content: bytes) -> None:
        """Choose a file with this content in the page."""
        self._file.write_bytes(content)
        self._in_thread(self._page.set_input_files, "input", self._file)

    def _arrays(self, handle: Any) -> list[bytes]:
        """Return the bytes of all arrays behind a handle, which are equally long."""
        number, size = self._in_thread(self._page.evaluate, "arrays => [arrays.length, arrays[0].byteLength]", handle)
        fetch = "([arrays, index, start, size]) => network.fetch(arrays, index, start, size)"

        def part(index: int, start: int) -> bytes:
            return base64.b64decode(self._in_thread(self._page.evaluate, fetch, [handle, index, start, _PART_BYTES]))

        return [b"".join(part(index, start) for start in range(0, size, _PART_BYTES)) for index in range(number)]
