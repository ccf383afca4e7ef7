"""Builds `export/cpp` and runs `rare_infer`."""

import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import openvino

from rarecli.core.data.phantoms import Phantom
from rarecli.core.imaging.volume import read_volume, write_image, write_labels
from rarecli.core.prediction.predictor import Predictor
from rarecli.core.types import Entry

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "export" / "cpp"
HEADERS = {
    "libnifti-dev": "nifti/nifti2_io.h",
    "nlohmann-json3-dev": "nlohmann/json.hpp",
    "libssl-dev": "openssl/evp.h",
    "zlib1g-dev": "zlib.h",
}
# oneTBB opens a library with RTLD_DEEPBIND, which AddressSanitizer refuses, unless told
LEAKS = ROOT / "export" / "cpp" / "tests" / "leaks.supp"
ENVIRONMENT = os.environ | {"TBB_ENABLE_SANITIZERS": "1", "LSAN_OPTIONS": f"suppressions={LEAKS}:print_suppressions=0"}


def missing_packages() -> list[str]:
    missing = [tool for tool in ("cmake", "g++", "make", "cppcheck") if shutil.which(tool) is None]
    if "g++" in missing:
        return missing
    for package, header in HEADERS.items():
        source = f"#include <{header}>\n"
        found = subprocess.run(
            ["g++", "-M", "-x", "c++", "-I/usr/include/nifti", "-"], input=source, text=True, capture_output=True, check=False
        )
        if found.returncode != 0:
            missing.append(package)
    return missing


def build(folder: Path, *options: str) -> Path:
    openvino_dir = Path(openvino.__file__).parent / "cmake"
    for command in (
        ["cmake", "-S", SOURCES, "-B", folder, f"-DOpenVINO_DIR={openvino_dir}", *options],
        ["cmake", "--build", folder, "--parallel", str(os.cpu_count())],
    ):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return folder


def infer(build_folder: Path, scan: Path, bundle: Path, output: Path, *options: str) -> subprocess.CompletedProcess:
    command = [build_folder / "rare_infer", scan, "-b", bundle, "-o", output, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)


def write_scan(path: Path, spacing, orientation: str, extent, seed: int = 5) -> Path:
    extent_mm = (float(extent),) * 3 if isinstance(extent, int) else tuple(map(float, extent))
    scan, _ = Phantom(seed, extent_mm).acquire(spacing, orientation)
    write_image(path, scan.data[0], scan)
    return path


def require_same(scan: Path, found: Path, predictor: Predictor, tmp_path: Path, entry: Entry | None = None) -> int:
    """Assert that labels and header equal those of `rare predict`. Return the number of foreground voxels."""
    volume = read_volume(scan)
    prediction = predictor.predict(volume, entry=entry)
    write_labels(tmp_path / "expected.nii.gz", prediction.labels, volume)
    ours, theirs = nib.load(found), nib.load(tmp_path / "expected.nii.gz")
    assert type(ours) is type(theirs)
    assert ours.header == theirs.header
    assert ours.shape == theirs.shape
    assert np.count_nonzero(np.asarray(ours.dataobj) != np.asarray(theirs.dataobj)) == 0
    return int(np.count_nonzero(prediction.labels))
