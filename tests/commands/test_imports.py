"""What a prediction imports: the time of a cold start, counted in modules, because times depend on the machine's other work."""

import subprocess
import sys

import pytest

from rarecli.core.data.phantoms import Phantom
from rarecli.core.imaging.volume import write_image

PROBE = """
import sys
from rarecli.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cold")
    scan = Phantom(0).acquire(4.0)[0]
    write_image(folder / "scan.nii.gz", scan.data, scan)
    words = ["predict", folder / "scan.nii.gz", "-m", "hippocampus", "-o", folder / "labels.nii.gz"]
    done = subprocess.run([sys.executable, "-c", PROBE, *map(str, words)], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "package", ["torch", "monai", "matplotlib", "jinja2", "pydicom", "gdcm", "scipy.sparse", "scipy.ndimage", "onnx", "onnxruntime"]
)
def test_predicting_a_nifti_file_with_a_bundle_does_not_import(imported, package):
    assert package not in imported


def test_what_is_imported_is_counted(imported):
    """764 with nibabel 5, OpenVINO 2026.4 and pydantic 2; 1102 with pydicom, gdcm and scipy.sparse among them."""
    assert {"nibabel", "openvino", "pydantic"} <= imported
    assert len(imported) <= 880


def test_pydicom_can_be_imported_afterwards():
    probe = (
        "import sys\nfrom rarecli.commands.imports import import_nibabel_alone\nimport_nibabel_alone()\n"
        "assert 'nibabel' in sys.modules and 'pydicom' not in sys.modules\nimport pydicom, highdicom\nassert pydicom.dcmread\n"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)
