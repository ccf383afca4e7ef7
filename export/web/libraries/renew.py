"""Fetches libraries with npm, in the versions of versions.json, and compares each archive with its hash there.

    make web-libraries

Each folder that is given as an argument, by default this one, holds versions.json: by package the version, the archive's hash, and the
files to keep, by their names in the archive. A name that ends in .gz is compressed.
To change a version, write it there with the new integrity (`npm view PACKAGE@VERSION dist.integrity`) and run this.
"""

import base64
import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


def main(folders: list[Path]) -> None:
    for folder in folders:
        for package, pinned in json.loads((folder / "versions.json").read_text()).items():
            target = folder / package.rpartition("/")[2]
            target.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory() as temporary, tarfile.open(fetched(package, pinned, Path(temporary))) as archive:
                for name, kept in pinned["files"].items():
                    content = archive.extractfile(f"package/{name}").read()
                    (target / kept).write_bytes(gzip.compress(content, mtime=0) if kept.endswith(".gz") else content)


def fetched(package: str, pinned: dict[str, str], folder: Path) -> Path:
    name = f"{package}@{pinned['version']}"
    subprocess.run(["npm", "pack", "--silent", name], cwd=folder, check=True)
    (archive,) = folder.glob("*.tgz")
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if integrity != pinned["integrity"]:
        sys.exit(f"{name} has integrity {integrity}, expected {pinned['integrity']}")
    return archive


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]] or [Path(__file__).parent])
