"""A bundle on disk. Its files are compared with its manifest."""

from __future__ import annotations

import json
from pathlib import Path

from rarecli.core.config.loading import validate
from rarecli.core.engines.manifest import MANIFEST, HashedFile, Manifest
from rarecli.core.errors import ModelError
from rarecli.core.jobs.files import read_json, sha256
from rarecli.core.jobs.safe_text import is_inside
from rarecli.core.types import Entry


def load_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest. Raises ModelError if it is broken or has a different schema version."""
    path = bundle / MANIFEST
    remedy = "export the bundle again with this version"
    content = read_json(path, ModelError)
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which other readers of JSON refuse
        raise ModelError("the file is not valid JSON", path=path, found=error) from error
    return validate(Manifest, content, "the bundle's manifest", ModelError, path=path, remedy=remedy, strict=True)


class Bundle:
    """A bundle on disk: its manifest and its files. Each file is compared with the manifest once, at its first use."""

    def __init__(self, path: Path) -> None:
        self.path, self.manifest = path, load_manifest(path)
        self._verified: set[str] = set()

    def engine_file(self, entry: Entry) -> Path:
        """Return the path of an entry's ONNX engine. The engine and its shared weights are compared with the manifest."""
        if self.manifest.weights:
            self.file(self.manifest.weights)
        return self.file(self.manifest.engine(entry))

    def verify(self) -> None:
        """Compare every file with the manifest. Raises ModelError at the first missing or changed file."""
        manifest = self.manifest
        plans = [engine.plan for engine in manifest.engines if engine.plan]
        vectors = [file for vector in manifest.conformance for file in (vector.scan, vector.labels, vector.arrays)]
        for file in (*([manifest.weights] if manifest.weights else []), *manifest.engines, *plans, *vectors):
            self.file(file)

    def file(self, hashed: HashedFile) -> Path:
        """Return the path of a file. Raises ModelError if it is missing, was changed, or is outside the bundle."""
        path = self.path / hashed.file
        if hashed.file in self._verified:
            return path
        if not is_inside(hashed.file):
            raise ModelError("a path leaves the bundle", path=self.path / MANIFEST, found=hashed.file)
        if not path.is_file():
            raise ModelError("a file of the bundle is missing", path=path, remedy="copy the bundle as a whole")
        if (found := sha256(path)) != hashed.sha256:
            raise ModelError(
                "a file of the bundle was changed", path=path, field="sha256", found=found, expected=hashed.sha256, remedy="export again"
            )
        self._verified.add(hashed.file)
        return path


def tensor_places(file: Path) -> dict[str, tuple[int, int]]:
    """Return the (offset, length) in bytes of each tensor in a safetensors file, by name. Source: the safetensors README."""
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(header_bytes))
    start = 8 + header_bytes
    return {
        name: (start + item["data_offsets"][0], item["data_offsets"][1] - item["data_offsets"][0])
        for name, item in header.items()
        if name != "__metadata__"
    }
