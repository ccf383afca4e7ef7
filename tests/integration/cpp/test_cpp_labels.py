"""The C++ consumer gives the labels of `rare predict`, label for label."""

import json
import math
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
from cpp_consumer import ENVIRONMENT, ROOT, SOURCES, infer, require_same, write_scan
from safetensors.numpy import load_file, save_file

from rarecli.core.benchmarking.suites import load_suite, random_spec, write_random_run
from rarecli.core.config.plan import CtNormalisation, PerChannelNormalisation, ZScoreNormalisation
from rarecli.core.data.phantoms import Phantom
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.imaging.volume import read_volume, write_image
from rarecli.core.prediction.predictor import Predictor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_sources_are_clean_for_cppcheck():
    command = [
        "cppcheck",
        "--enable=warning,style,performance,portability",
        "--suppress=missingIncludeSystem",
        "--suppress=useStlAlgorithm",
    ]
    command += ["--std=c++17", "--error-exitcode=1", "--quiet", "-I", SOURCES / "include", SOURCES / "src", SOURCES / "tests"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("kind", ["release", "sanitised"])
def test_golden_routes_and_conformance_vectors(kind, bundle, request):
    command = [request.getfixturevalue(kind) / "rare_tests", ROOT / "tests" / "golden" / "routing_cases.json", bundle]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("labels correct") == 4
    assert result.stdout.endswith("all passed\n")


@pytest.mark.parametrize("options", [ExportOptions(precision="fp16"), ExportOptions(conv_transpose=False)], ids=["half", "rewritten"])
def test_conformance_vectors_of_bundles_of_other_graphs(release, run, tmp_path, options):
    export(run, tmp_path / "bundle", options)
    command = [release / "rare_tests", ROOT / "tests" / "golden" / "routing_cases.json", tmp_path / "bundle"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("labels correct") == 4


def test_a_bundle_that_crops_to_what_is_not_zero(sanitised, run, tmp_path):
    """Its vectors have a margin of zeros, and percentiles are those of what is not 0."""
    cropping = shutil.copytree(run, tmp_path / "run")
    info = json.loads((cropping / "run.json").read_text())
    info["spec"]["plan"]["crop"] = "nonzero"
    info["spec"]["plan"]["normalisation"]["voxels"] = "nonzero"
    (cropping / "run.json").write_text(json.dumps(info))
    export(cropping, tmp_path / "bundle")
    command = [sanitised / "rare_tests", ROOT / "tests" / "golden" / "routing_cases.json", tmp_path / "bundle"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("labels correct") == 4


def rotated(scan: nib.Nifti1Image) -> nib.Nifti1Image:
    angle = math.radians(25)
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return nib.Nifti1Image(scan.get_fdata(dtype=np.float32), turn @ scan.affine)


def as_int16(scan: nib.Nifti1Image) -> nib.Nifti1Image:
    """Stored as integers with slope and intercept."""
    image = nib.Nifti1Image(scan.get_fdata(dtype=np.float32), scan.affine)
    image.set_data_dtype(np.int16)
    return image


def as_big_endian_uint16(scan: nib.Nifti1Image) -> nib.Nifti1Image:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">u2")
    return nib.Nifti1Image((scan.get_fdata() * 1000).clip(0, 60000).astype(">u2"), scan.affine, header)


def as_nifti_2(scan: nib.Nifti1Image) -> nib.Nifti2Image:
    return nib.Nifti2Image(scan.get_fdata(), scan.affine)


def with_qform_alone(scan: nib.Nifti1Image) -> nib.Nifti1Image:
    image = rotated(scan)
    image.set_qform(image.affine, 1)
    image.set_sform(None, 0)
    return image


def without_forms(scan: nib.Nifti1Image) -> nib.Nifti1Image:
    image = nib.Nifti1Image(scan.get_fdata(dtype=np.float32), None)
    image.header.set_zooms(scan.header.get_zooms())
    image.header["descrip"] = b"the patient's name"
    return image


def in_micron(scan: nib.Nifti1Image) -> nib.Nifti1Image:
    image = nib.Nifti1Image(scan.get_fdata(dtype=np.float32), np.diag([1e3, 1e3, 1e3, 1]) @ scan.affine)
    image.header.set_xyzt_units("micron")
    return image


def with_a_fourth_axis(scan: nib.Nifti1Image) -> nib.Nifti1Image:
    return nib.Nifti1Image(scan.get_fdata(dtype=np.float32)[..., None], scan.affine)


SCANS = {
    # name: spacing (mm, RAS axes), orientation, field of view (mm)
    **{f"depth{depth}": (2.0**depth, "RAS", 32) for depth in range(4)},
    "finer": (0.8, "RAS", 26),
    "1.3mm": (1.3, "LPS", 32),
    "between": (3.1, "RAS", 40),
    "within_tolerance": ((1.05, 2.0, 0.95), "LPI", 32),
    "coarser_than_any": (11.0, "RAS", 70),
    "anisotropic_0": ((1.0, 1.6, 3.0), "PIR", 32),
    "anisotropic_1": ((5.0, 2.2, 2.0), "SAL", 40),
    "anisotropic_2": ((4.0, 4.0, 9.5), "IRP", 60),
    **{f"turned_{axes}": ((1.0, 1.25, 1.5), axes, 24) for axes in ("ASR", "LIA", "RSP", "PRS", "ILA")},
    "large": (1.0, "LAS", (90, 70, 45)),
    "large_deep": ((4.0, 4.4, 4.0), "RPI", (150, 110, 70)),
}
STORED = (rotated, as_int16, as_big_endian_uint16, as_nifti_2, with_qform_alone, without_forms, in_micron, with_a_fourth_axis)


@pytest.mark.parametrize("name", SCANS)
def test_labels_equal_those_of_rare_predict(name, release, bundle, predictor, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", *SCANS[name])
    result = infer(release, scan, bundle, tmp_path / "new" / "labels.nii.gz")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"depth {predictor.predict(scan).entry[0]}, ")
    assert require_same(scan, tmp_path / "new" / "labels.nii.gz", predictor, tmp_path) > 0


@pytest.mark.filterwarnings("ignore:.*neither sform nor qform")
@pytest.mark.parametrize("store", STORED)
def test_labels_are_equal_however_the_scan_is_stored(store, release, bundle, predictor, tmp_path):
    plain = nib.load(write_scan(tmp_path / "plain.nii", (1.0, 1.4, 1.0), "LPS", 28))
    for name in ("scan.nii", "scan.nii.gz"):
        nib.save(store(plain), tmp_path / name)
        result = infer(release, tmp_path / name, bundle, tmp_path / f"labels_{name}")
        assert result.returncode == 0, result.stderr
        require_same(tmp_path / name, tmp_path / f"labels_{name}", predictor, tmp_path)


def test_a_depth_can_be_forced_and_sanitizers_find_nothing(sanitised, bundle, predictor, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", (1.0, 1.4, 2.0), "PIR", (60, 40, 40))
    for forced, depth in ((("--depth", "0"), 0), (("--entry", "2,2,2"), 2)):
        result = infer(sanitised, scan, bundle, tmp_path / "labels.nii", *forced, "--backend", "openvino", "--overwrite")
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"depth {depth}, ")
        require_same(scan, tmp_path / "labels.nii", predictor, tmp_path, (depth, depth, depth))


def test_conformance_vectors_of_thick_slices(release, thick_run, tmp_path):
    """Of each isotropic entry and of the thickest slices along each axis."""
    export(thick_run, tmp_path / "bundle", ExportOptions(entries="thick"))
    command = [release / "rare_tests", ROOT / "tests" / "golden" / "routing_cases.json", tmp_path / "bundle"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    found = [line.split(":")[0] for line in result.stdout.splitlines() if "labels correct" in line]
    assert found == ["depth 0", "depth 1", "depth 2", "entry 2,0,0", "entry 0,2,0", "entry 0,0,2"]


# spacing (mm, RAS axes), size, where the scan enters, and the window
THICK = [
    ((1.0, 1.0, 4.0), (35, 50, 9), "entry 0,0,2", "32 x 32 x 8"),
    ((4.0, 1.0, 1.0), (9, 35, 50), "entry 2,0,0", "8 x 32 x 32"),
    ((2.0, 2.0, 6.0), (35, 50, 9), "entry 1,1,2", "16 x 16 x 8"),  # z becomes 13.5 voxels of 4 mm
    ((1.0, 1.3, 3.0), (35, 50, 9), "entry 0,0,2", "32 x 32 x 7"),  # z becomes 6.75 voxels of 4 mm, y stays as it is
    ((1.0, 2.0, 2.0), (29, 13, 15), "entry 0,0,1", "29 x 26 x 15"),  # wants 0,1,1; y is refined
    ((1.0, 1.0, 1.0), (33, 3, 21), "depth 0", "32 x 9 x 21"),  # the least size is 9
    ((4.0, 4.0, 4.0), (11, 7, 5), "depth 2", "8 x 7 x 5"),
]


@pytest.mark.parametrize("orientation", ["RAS", "PLI"])
@pytest.mark.parametrize(("spacing", "shape", "entered", "window"), THICK)
def test_labels_of_thick_slices_of_any_size_equal_those_of_rare_predict(
    spacing, shape, entered, window, orientation, release, thick_bundle, thick_predictor, tmp_path
):
    extent = [mm * size for mm, size in zip(spacing, shape, strict=True)]
    scan = write_scan(tmp_path / "scan.nii.gz", spacing, orientation, extent)
    assert to_ras(read_volume(scan)).shape == shape
    result = infer(release, scan, thick_bundle, tmp_path / "labels.nii.gz")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{entered}, windows of {window}; ")
    assert 0 < require_same(scan, tmp_path / "labels.nii.gz", thick_predictor, tmp_path) < math.prod(shape)


def test_an_entry_can_be_forced_that_the_spacing_would_not_choose(sanitised, thick_bundle, thick_predictor, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", (1.0, 1.0, 3.0), "ASL", (35, 30, 25))
    for entry in ((0, 0, 1), (2, 0, 0)):
        text = ",".join(map(str, entry))
        result = infer(sanitised, scan, thick_bundle, tmp_path / "labels.nii", "--entry", text, "--overwrite")
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"entry {text}, ")
        require_same(scan, tmp_path / "labels.nii", thick_predictor, tmp_path, entry)


CT = CtNormalisation(lower=(0.2, -1.0), upper=(0.9, 0.8), mean=(0.5, 0.4), std=(0.2, 0.3))
EACH = PerChannelNormalisation(rules=(CtNormalisation(lower=(0.2,), upper=(0.9,), mean=(0.5,), std=(0.2,)), ZScoreNormalisation()))


@pytest.mark.parametrize("rule", [CT, EACH, ZScoreNormalisation()], ids=lambda rule: rule.kind)
def test_two_channels_with_large_label_values(release, tmp_path, rule):
    spec = random_spec(load_suite("smoke"))
    names = tuple(str(index) for index in range(spec.network.num_classes))
    values = tuple(300 * index for index in range(spec.network.num_classes))
    plan = spec.plan.model_copy(
        update={
            "channel_names": ("a", "b"),
            "normalisation": rule,
            "label_names": names,
            "label_values": values,
            "patch_size": (32, 32, 32),
        }
    )
    network = spec.network.model_copy(update={"in_channels": 2})
    write_random_run(spec.model_copy(update={"plan": plan, "network": network}), tmp_path / "run")
    weights = load_file(tmp_path / "run" / "weights.safetensors")
    rng = np.random.default_rng(0)  # random weights predict only background
    save_file(
        {key: value + rng.normal(0, 0.2, value.shape).astype(np.float32) for key, value in weights.items()},
        tmp_path / "run" / "weights.safetensors",
    )
    export(tmp_path / "run", tmp_path / "bundle", ExportOptions(check=False, self_contained=True))
    scan, _ = Phantom(3, (40.0, 32.0, 24.0), 2).acquire((1.0, 1.3, 1.0), "LAS")
    write_image(tmp_path / "scan.nii.gz", scan.data, scan)
    result = infer(release, tmp_path / "scan.nii.gz", tmp_path / "bundle", tmp_path / "labels.nii.gz")
    assert result.returncode == 0, result.stderr
    with Predictor(tmp_path / "bundle", backend="openvino") as two_channels:
        assert require_same(tmp_path / "scan.nii.gz", tmp_path / "labels.nii.gz", two_channels, tmp_path) > 0


def test_only_the_routed_engine_is_opened(release, bundle, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", 2.0, "RAS", 32)
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    for depth in (0, 2, 3):
        (copy / f"entry_{depth}_{depth}_{depth}.onnx").unlink()
    result = infer(release, scan, copy, tmp_path / "labels.nii.gz")
    assert result.returncode == 0, result.stderr


def test_depths_that_were_not_exported_are_routed_around(release, run, tmp_path):
    export(run, tmp_path / "bundle", ExportOptions(entries=[(1, 1, 1), (3, 3, 3)], check=False))
    with Predictor(tmp_path / "bundle", backend="openvino") as two_depths:
        for spacing in (1.0, 4.0, 8.0):
            scan = write_scan(tmp_path / "scan.nii.gz", spacing, "RAS", 48)
            result = infer(release, scan, tmp_path / "bundle", tmp_path / "labels.nii.gz", "--overwrite")
            assert result.returncode == 0, result.stderr
            require_same(scan, tmp_path / "labels.nii.gz", two_depths, tmp_path)
