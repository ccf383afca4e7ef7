"""`rare export --format html`: one HTML file that holds a model and segments scans in a browser.

The page is a consumer of the bundle, like export/cpp: its scripts are in export/web, in a wheel in rarecli/web. It holds the manifest, the
graphs, the weights, the conformance vectors and onnxruntime-web, and requests nothing.
Decision: docs/decisions/0026-segment-page.md.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rarecli.core.config.geometry import EntrySet
from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.manifest import Manifest, Precision
from rarecli.core.engines.model_files import find_model
from rarecli.core.engines.page_graphs import write_page_graphs
from rarecli.core.errors import UsageError, missing_extra
from rarecli.core.jobs.files import atomic_file
from rarecli.core.jobs.outputs import require_replaceable
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.reporting.page import MARK, STYLES, is_ours
from rarecli.core.types import Entry
from rarecli.core.versions import installed_versions

_LIBRARY = "onnxruntime-web"
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?(function|const|class) )", re.MULTILINE)


@dataclass(frozen=True)
class PageOptions:
    """What a page holds. entries, precision: as in `ExportOptions`; without them a bundle is taken as it is."""

    entries: EntrySet | Sequence[Entry] | None = None
    precision: Precision = "fp32"
    overwrite: bool = False


def write_segment_page(model: Path, page: Path, options: PageOptions = PageOptions(), reporter: Reporter = Silent()) -> Manifest:
    """Write the page of a model, whole or not at all. Return the manifest inside it.

    A bundle is taken as it is; a run, a bundle in fp32 for fp16, and chosen entries are exported first, with every check of `export`.
    Raises UsageError for a page that may not be written there, and what `export` raises.
    """
    if page.suffix.lower() not in (".html", ".htm") or page.is_dir():
        raise UsageError("a page is one file", path=page, expected="a name ending in .html", remedy="choose another -o")
    require_replaceable([page], [page] if is_ours(page) else [], again=options.overwrite, resumable=False)
    source = find_model(model)
    with tempfile.TemporaryDirectory(prefix="rare-page-") as folder:
        bundle = source.bundle
        if bundle is None or options.entries is not None or (options.precision == "fp16" and bundle.manifest.precision != "fp16"):
            bundle = _export(model, Path(folder) / "bundle", options, reporter)
        (Path(folder) / "graphs").mkdir()
        graphs = write_page_graphs(bundle, Path(folder) / "graphs", reporter)
        text = _render(bundle, graphs)
    with atomic_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return bundle.manifest


def _export(model: Path, folder: Path, options: PageOptions, reporter: Reporter) -> Bundle:
    try:
        from rarecli.core.engines.export import ExportOptions, export
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    export(model, folder, ExportOptions(entries=options.entries, precision=options.precision), reporter)
    return Bundle(folder)


def _render(bundle: Bundle, graphs: dict[str, bytes]) -> str:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise missing_extra("jinja2", "cpu") from None
    web = web_folder()
    environment = Environment(
        loader=FileSystemLoader(web), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    manifest = bundle.manifest
    scripts = {name: joined_modules(web / "src" / f"{name}.js") for name in ("worker", "page")}
    return environment.get_template("page.html.jinja").render(
        mark=MARK,
        styles=STYLES.read_text(encoding="utf-8") + (web / "page.css").read_text(encoding="utf-8"),
        manifest=manifest.model_dump(mode="json"),
        labels=[name for name, value in zip(manifest.spec.plan.label_names, manifest.spec.plan.label_values, strict=True) if value],
        num_channels=manifest.spec.network.in_channels,
        version=installed_versions(["rare-unet"]).get("rare-unet", ""),
        versions=json.loads((web / "libraries" / "versions.json").read_text(encoding="utf-8")),
        worker=scripts["worker"],
        script=scripts["page"],
        assets=_assets(bundle, manifest, graphs),
    )


def _assets(bundle: Bundle, manifest: Manifest, graphs: dict[str, bytes]) -> dict[str, str]:
    """Return the files inside the page by name: gzip in base64."""
    assert manifest.weights is not None
    vectors = [file for vector in manifest.conformance for file in (vector.scan, vector.labels, vector.arrays)]
    converter = web_folder() / "libraries" / "dcm2niix"
    files = {
        "ort.js": runtime_script().encode(),
        "dcm2niix.js": (converter / "dcm2niix.js").read_bytes(),
        "weights.safetensors": bundle.file(manifest.weights).read_bytes(),
        **graphs,
        **{vector.file: bundle.file(vector).read_bytes() for vector in vectors},
    }
    assets = {name: packed(content) for name, content in files.items()} | packed_runtime()
    return assets | {"dcm2niix.wasm": _base64((converter / "dcm2niix.wasm.gz").read_bytes())}


def packed(content: bytes) -> str:
    """Return a file as it lies in a page: gzip in base64."""
    return _base64(gzip.compress(content, mtime=0))


def packed_runtime() -> dict[str, str]:
    """Return the two files of onnxruntime-web that `engine.js` starts, packed, by their names in a page."""
    library = web_folder() / "libraries" / _LIBRARY
    return {
        "ort.mjs": packed((library / "ort-wasm-simd-threaded.jspi.mjs").read_bytes()),
        "ort.wasm": _base64((library / "ort-wasm-simd-threaded.jspi.wasm.gz").read_bytes()),
    }


def runtime_script() -> str:
    """Return the script of onnxruntime-web that must come before `engine.js`."""
    return (web_folder() / "libraries" / _LIBRARY / "ort.jspi.min.js").read_text(encoding="utf-8")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def web_folder() -> Path:
    """Return the folder with the page's template, scripts and libraries: in the package, or in a checkout in export/web."""
    package = Path(str(resources.files("rarecli")))
    return package / "web" if (package / "web").is_dir() else package.parent / "export" / "web"


def joined_modules(script: Path) -> str:
    """Return a script with the modules that it imports before it, as one script: a page from file:// cannot import modules.

    All names of the modules share one scope, so each may be declared once.
    """
    modules: dict[Path, str] = {}

    def add(path: Path) -> None:
        if path in modules:
            return
        text = path.read_text(encoding="utf-8")
        modules[path] = ""  # taken, also by a module that imports this one in turn
        for name in _IMPORT.findall(text):
            add(path.parent / name)
        modules[path] = modules.pop(path) or _EXPORT.sub("", _IMPORT.sub("", text))

    add(script)
    return '"use strict";\n(() => {\n' + "\n".join(modules.values()) + "})();"
