"""The C++ reader takes and refuses the files that the Python reader takes and refuses, for the same reasons."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cpp_consumer import ENVIRONMENT, ROOT, infer
from nifti_cases import CASES, bomb

from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.model_files import built_in_models

FAULTS = ROOT / "tests" / "faults"
sys.path.insert(0, str(FAULTS))
from readers import difference, python_verdict  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DIFFERENTIAL = FAULTS / "differential.py"
MEGABYTE = 2**20


def verdicts(build: Path, paths: list[Path], bundle: Path | None = None) -> list[dict]:
    program, bundle = build / "rare_verdicts", bundle or next(iter(built_in_models().values()))
    lines = "".join(f"{path}\n" for path in paths)
    result = subprocess.run([program, bundle], input=lines, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("kind", ["release", "sanitised"])
def test_files_are_read_or_refused_as_the_table_says(kind, request, tmp_path):
    paths = []
    for index, (file, build, _) in enumerate(CASES.values()):
        (tmp_path / str(index)).mkdir()
        paths.append(tmp_path / str(index) / file)
        build(paths[-1])
    found = verdicts(request.getfixturevalue(kind), paths)
    too_far = "the spacing is too far from the grid that the scan is resampled to"  # what routing says of a scan that was read
    for (name, (*_, problem)), verdict in zip(CASES.items(), found, strict=True):
        assert verdict.get("problem") in ((None, too_far) if problem is None else (problem,)), name
        assert verdict["exit"] == (3 if "problem" in verdict else 0), name


def test_400_spacings_are_routed_as_in_python(release, thick_bundle, tmp_path):
    """Half of them are powers of two, where several entries are equally near."""
    rng, paths = np.random.default_rng(0), []
    for index in range(400):
        spacing = 2.0 ** (rng.integers(-1, 5, 3) if index % 2 else rng.uniform(-1, 4, 3))
        paths.append(tmp_path / f"{index}.nii")
        nib.save(nib.Nifti1Image(rng.random((7, 5, 6), dtype=np.float32), np.diag([*spacing, 1.0])), paths[-1])
    manifest, entries = load_manifest(thick_bundle), set()
    for path, found in zip(paths, verdicts(release, paths, thick_bundle), strict=True):
        assert difference(python_verdict(path, manifest), found) is None
        entries.add(tuple(found["entry"]))
    assert entries == set(manifest.entries)


@pytest.mark.parametrize(("kind", "seed"), [("release", 0), ("sanitised", 1)])
def test_mutated_scans_get_one_verdict(kind, seed, request):
    require_no_findings(request.getfixturevalue(kind), "--num-files", "600", "--seed", str(seed))


def test_2000_mutated_manifests_get_one_verdict_and_sanitizers_find_nothing(sanitised):
    require_no_findings(sanitised, "--manifests", "--num-files", "2000", "--seed", "0")


def require_no_findings(build: Path, *options: str) -> None:
    command = [sys.executable, DIFFERENTIAL, build, *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert " 0 findings" in result.stdout
    assert " 0 read\n" in result.stdout  # some are still good


def test_a_packed_scan_takes_four_bytes_per_voxel_and_a_gzip_bomb_a_few_megabytes(release, tmp_path):
    files = {
        "small": ((4, 4, 4), 2**24),
        "scan": ((512, 256, 256), 2**25),
        "ends": ((4, 4, 4), 2**30),
        "large": ((1024, 1024, 1024), 2**30),
    }
    for name, (shape, num_bytes) in files.items():
        bomb(shape, num_bytes)(tmp_path / f"{name}.nii.gz")
    small, scan, *bombs = verdicts(release, [tmp_path / f"{name}.nii.gz" for name in files])
    assert scan["shape"] == [1, 512, 256, 256]
    assert scan["peak_bytes"] - small["peak_bytes"] < 4 * 2**25 + 16 * MEGABYTE
    for verdict in bombs:
        assert verdict["exit"] == 3
        assert verdict["peak_bytes"] - small["peak_bytes"] < 8 * MEGABYTE
        assert verdict["cpu_s"] < 1


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_scan_that_is_long_and_thin_is_refused(kind, release, bundle, tmp_path):
    """163842 x 1 x 1: in NIfTI-1 FreeSurfer's sizes."""
    nib.save(kind(np.zeros((163842, 1, 1), np.uint8), np.eye(4)), tmp_path / "scan.nii")
    result = infer(release, tmp_path / "scan.nii", bundle, tmp_path / "labels.nii")
    assert result.returncode == 3
    assert "the scan is too thin for its length; " in result.stderr
    assert "163842 x 1 x 1 voxels on the grid of depth 0" in result.stderr


def test_a_scan_that_can_be_read_but_not_predicted_is_refused_from_its_header(release, bundle, tmp_path):
    """Eight bytes per voxel fit the memory; scan, image and logits do not."""
    memory = next(int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    side = int((memory / 8.5) ** (1 / 3))
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((side, side, side))
    header.set_sform(np.eye(4), 1)
    header["vox_offset"] = 352
    with (tmp_path / "scan.nii").open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        file.truncate(352 + side**3)
    result = infer(release, tmp_path / "scan.nii", bundle, tmp_path / "labels.nii")
    assert result.returncode == 3
    assert "predicting the scan takes more memory than this machine has" in result.stderr
