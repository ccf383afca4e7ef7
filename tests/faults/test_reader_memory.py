"""What reading a scan holds at once, as the system counts it."""

from pathlib import Path

import pytest
from nifti_cases import bomb, hollow
from readers import difference, measured

from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.model_files import built_in_models

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def manifest():
    return load_manifest(next(iter(built_in_models().values())))


def held_bytes(path: Path, manifest) -> tuple[int, dict]:
    """The peak of the second reading over that of reading next to nothing, and the verdict."""
    small = path.with_name("small.nii.gz")
    bomb((4, 4, 4), 2**24)(small)
    before = measured(small, manifest)["peak_bytes"]
    verdict = measured(path, manifest)
    return verdict["peak_bytes"] - before, verdict


def test_a_packed_scan_takes_eight_bytes_per_voxel_however_tightly_it_is_packed(manifest, tmp_path):
    """In float32 as the file orders it, and as the array does."""
    bomb((512, 256, 256), 2**25)(tmp_path / "scan.nii.gz")
    held, verdict = held_bytes(tmp_path / "scan.nii.gz", manifest)
    assert verdict["shape"] == [1, 512, 256, 256]
    assert held < 8 * 2**25 + 32 * MEGABYTE


@pytest.mark.parametrize(
    ("shape", "problem"),
    [((4, 4, 4), "the file continues after its voxels"), ((1024, 1024, 1024), "the file would unpack to far more data than a scan holds")],
)
def test_a_gzip_bomb_takes_a_few_megabytes(shape, problem, manifest, tmp_path):
    bomb(shape, 2**30)(tmp_path / "bomb.nii.gz")
    assert (tmp_path / "bomb.nii.gz").stat().st_size < 2 * MEGABYTE
    held, verdict = held_bytes(tmp_path / "bomb.nii.gz", manifest)
    assert verdict["problem"] == problem
    assert held < 8 * MEGABYTE
    assert verdict["cpu_s"] < 1


def test_a_plain_scan_beyond_the_memory_takes_nothing(manifest, tmp_path):
    hollow((32767, 32767, 2000))(tmp_path / "scan.nii")
    held, verdict = held_bytes(tmp_path / "scan.nii", manifest)
    assert "more memory than this machine has" in verdict["problem"]
    assert held < 8 * MEGABYTE


def test_the_comparison_of_two_readers_can_fail():
    one = {"exit": 0, "shape": [1, 2, 3, 4], "affine": [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "crc32": 5}
    assert difference(one, dict(one)) is None
    assert difference({"exit": 3, "problem": "the header is broken"}, {"exit": 3, "problem": "the file is cut short"})
    for name, other in (("exit", 3), ("shape", [1, 2, 4, 3]), ("crc32", 6), ("affine", [[1.0 + 1e-7, 0, 0, 0], *one["affine"][1:]])):
        assert name in difference(one, one | {name: other})
