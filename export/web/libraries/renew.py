"""Fetches the libraries of the page with npm, in the versions of versions.json, and compares each archive with its hash there.

    make web-libraries

To change a version, write it there with the new integrity (`npm view onnxruntime-web@VERSION dist.integrity`) and run this.
"""

import base64
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import onnxruntime

HERE = Path(__file__).parent
FILES = {
    "ort.wasm.min.js": "ort.wasm.min.js",
    "ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm.gz",
}
"""By the name in the archive's dist/: the name here."""


def main() -> None:
    target = HERE / "onnxruntime-web"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fetched("onnxruntime-web", Path(folder))) as archive:
        for name, kept in FILES.items():
            content = archive.extractfile(f"package/dist/{name}").read()
            (target / kept).write_bytes(gzip.compress(content, mtime=0) if kept.endswith(".gz") else content)
    for name in ("LICENSE", "ThirdPartyNotices.txt"):  # the npm package has none; the Python package is built from the same sources
        shutil.copy(Path(onnxruntime.__file__).parent / name, target / name)


def fetched(package: str, folder: Path) -> Path:
    pinned = json.loads((HERE / "versions.json").read_text())[package]
    name = f"{package}@{pinned['version']}"
    subprocess.run(["npm", "pack", "--silent", name], cwd=folder, check=True)
    (archive,) = folder.glob("*.tgz")
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if integrity != pinned["integrity"]:
        sys.exit(f"{name} has integrity {integrity}, expected {pinned['integrity']}")
    return archive


if __name__ == "__main__":
    main()
