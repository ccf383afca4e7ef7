"""The sdist holds what is committed, builds and tests itself; its wheel is small and runs by itself. Nothing is downloaded."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import nibabel as nib
import pytest

from rarecli.core.data.phantoms import Phantom
from rarecli.core.imaging.volume import write_image

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
MOST_WHEEL_BYTES = 60e6


def ran(*command, **options):
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    ran(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    ran(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=unpacked)
    return next(folder.glob("*.whl"))


def test_the_sdist_holds_every_committed_file(unpacked):
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a checkout")
    committed = [name for name in ran("git", "ls-files", "-z", cwd=ROOT).split("\0") if name and not name.startswith(".github/")]
    assert [name for name in committed if (ROOT / name).is_file() and not (unpacked / name).is_file()] == []


def test_the_sdist_tests_itself(unpacked):
    options = ["-q", "-p", "no:cacheprovider", "tests/test_house.py", "tests/imaging/test_routing.py", "tests/config"]
    assert " passed" in ran(
        sys.executable, "-m", "pytest", *options, cwd=unpacked, env={"PYTHONPATH": str(unpacked), "PATH": "/usr/bin:/bin"}
    )


def test_the_wheel_runs_in_an_environment_of_its_own(wheel, tmp_path):
    """As pipx runs it; the dependencies are those of this environment, which the new one sees behind its own packages."""
    assert wheel.stat().st_size < MOST_WHEEL_BYTES
    venv.create(tmp_path / "venv", with_pip=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}))
    ran(tmp_path / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    image, _ = Phantom(0).acquire(8.0)
    write_image(tmp_path / "scan.nii.gz", image.data[0], image)
    rare, clean = tmp_path / "venv" / "bin" / "rare", {"PATH": "/usr/bin:/bin"}
    assert str(site) in ran(rare, "models", cwd=tmp_path, env=clean)
    ran(rare, "predict", "scan.nii.gz", "-m", "hippocampus", "-o", "labels.nii.gz", cwd=tmp_path, env=clean)
    assert nib.load(tmp_path / "labels.nii.gz").shape == image.shape
    names = ran(sys.executable, "-m", "zipfile", "-l", wheel)
    assert "licenses/LICENSE" in names
    assert "rarecli/py.typed" in names
    assert "tests/" not in names
