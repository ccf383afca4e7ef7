"""The C++ consumer `export/cpp`, for real: built twice (optimised, and with sanitizers), compared with `rare predict` label for label."""

import gzip
import math
import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import openvino
import pytest
from safetensors.numpy import load_file, save_file

from rarecli.core.benchmarking.suites import load_suite, random_spec, write_random_run
from rarecli.core.config.plan import CtNormalisation
from rarecli.core.data.phantoms import Phantom
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.errors import RareError
from rarecli.core.imaging.volume import read_volume, write_image, write_labels
from rarecli.core.prediction.predictor import Predictor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
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


@pytest.fixture(scope="module", autouse=True)
def _packages():
    if missing := missing_packages():
        words = f"export/cpp cannot be built here: {', '.join(missing)} missing; run export/cpp/install_packages.sh as root"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)


def build(folder: Path, *options: str) -> Path:
    openvino_dir = Path(openvino.__file__).parent / "cmake"
    for command in (
        ["cmake", "-S", SOURCES, "-B", folder, f"-DOpenVINO_DIR={openvino_dir}", *options],
        ["cmake", "--build", folder, "--parallel", str(os.cpu_count())],
    ):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return build(tmp_path_factory.mktemp("cpp") / "release")


@pytest.fixture(scope="module")
def sanitised(tmp_path_factory):
    return build(tmp_path_factory.mktemp("cpp") / "sanitised", "-DRARE_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug")


@pytest.fixture(scope="module")
def predictor(bundle):
    with Predictor(bundle, backend="openvino") as opened:
        yield opened


def infer(build_folder: Path, scan: Path, bundle: Path, output: Path, *options: str) -> subprocess.CompletedProcess:
    command = [build_folder / "rare_infer", scan, "-b", bundle, "-o", output, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)


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
    assert result.stdout.count("labels right") == 4
    assert result.stdout.endswith("all passed\n")


def test_conformance_vectors_of_a_bundle_in_half_precision(release, run, tmp_path):
    export(run, tmp_path / "half", ExportOptions(precision="fp16"))
    command = [release / "rare_tests", ROOT / "tests" / "golden" / "routing_cases.json", tmp_path / "half"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("labels right") == 4


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


def write_scan(path: Path, spacing, orientation: str, extent, seed: int = 5) -> Path:
    extent_mm = (float(extent),) * 3 if isinstance(extent, int) else tuple(map(float, extent))
    scan, _ = Phantom(seed, extent_mm).acquire(spacing, orientation)
    write_image(path, scan.data[0], scan)
    return path


def require_same(scan: Path, found: Path, predictor: Predictor, tmp_path: Path, depth: int | None = None) -> int:
    """Labels and header are those of `rare predict`; returns the number of voxels that are not background."""
    volume = read_volume(scan)
    prediction = predictor.predict(volume, depth=depth)
    write_labels(tmp_path / "expected.nii.gz", prediction.labels, volume)
    ours, theirs = nib.load(found), nib.load(tmp_path / "expected.nii.gz")
    assert type(ours) is type(theirs)
    assert ours.header == theirs.header
    assert ours.shape == theirs.shape
    assert np.count_nonzero(np.asarray(ours.dataobj) != np.asarray(theirs.dataobj)) == 0
    return int(np.count_nonzero(prediction.labels))


@pytest.mark.parametrize("name", SCANS)
def test_labels_equal_those_of_rare_predict(name, release, bundle, predictor, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", *SCANS[name])
    result = infer(release, scan, bundle, tmp_path / "new" / "labels.nii.gz")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"depth {predictor.predict(scan).depth}, ")
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
    for depth in (0, 2):
        result = infer(sanitised, scan, bundle, tmp_path / "labels.nii", "--depth", str(depth), "--backend", "openvino")
        assert result.returncode == 0, result.stderr
        require_same(scan, tmp_path / "labels.nii", predictor, tmp_path, depth)


def test_two_channels_of_ct_with_large_label_values(release, tmp_path):
    spec = random_spec(load_suite("smoke"))
    rule = CtNormalisation(lower=(0.2, -1.0), upper=(0.9, 0.8), mean=(0.5, 0.4), std=(0.2, 0.3))
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
    rng = np.random.default_rng(0)  # fresh weights find nothing but background
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


def cut_short(scan: Path) -> None:
    scan.write_bytes(scan.read_bytes()[:-500])


def with_a_wrong_checksum(scan: Path) -> None:
    content = bytearray(scan.read_bytes())
    content[-6] ^= 1
    scan.write_bytes(content)


def not_gzip(scan: Path) -> None:
    scan.write_bytes(gzip.decompress(scan.read_bytes()))


def of_zeros(scan: Path) -> None:
    scan.write_bytes(gzip.compress(bytes(5000)))


def changed(scan: Path, change) -> None:
    image = nib.load(scan)
    data, header = image.get_fdata(dtype=np.float32), image.header.copy()
    affine = image.affine.copy()
    data, affine = change(data, affine, header)
    nib.save(nib.Nifti1Image(data, affine, header), scan)


def with_nan(scan: Path) -> None:
    def change(data, affine, header):
        data[1, 2, 3] = np.nan
        return data, affine

    changed(scan, change)


def with_shear(scan: Path) -> None:
    def change(data, affine, header):
        affine[0, 1] += 0.5
        header.set_qform(None, 0)
        return data, affine

    changed(scan, change)


def with_channels(scan: Path) -> None:
    changed(scan, lambda data, affine, header: (np.stack([data, data], axis=-1), affine))


def header_field(offset: int, content: bytes):
    def change(scan: Path) -> None:
        whole = bytearray(gzip.decompress(scan.read_bytes()))
        whole[offset : offset + len(content)] = content
        scan.write_bytes(gzip.compress(bytes(whole)))

    return change


BROKEN_SCANS = {
    "the file is missing": (Path.unlink, 3),
    "the compressed file is broken": (with_a_wrong_checksum, 3),
    "": (cut_short, 3),
    "the file is not what its name says": (not_gzip, 3),
    "this is no NIfTI file": (of_zeros, 3),
    "no finite numbers": (with_nan, 3),
    "not at right angles": (with_shear, 3),
    "the unit of length is unknown": (header_field(123, b"\x05"), 3),
    "more voxels than the file can hold": (header_field(42, b"\xff\x7f\xff\x7f\xff\x7f"), 3),
    "positive sizes": (header_field(42, b"\x00\x00"), 3),
    "the voxel type is not a plain number": (header_field(70, b"\x80\x00"), 3),
    "the spacing is unknown": (header_field(80, bytes(4) + b"\x00\x00\x80\x3f" * 2 + bytes(164) + bytes(4)), 3),
    "sform and qform disagree": (header_field(80, b"\x00\x00\x80\x40"), 3),
    "quaternion is no rotation": (header_field(252, b"\x01\x00\x00\x00\x00\x00\x00\x40"), 3),
    "another number of channels; found: 2; expected: 1": (with_channels, 4),
}


@pytest.mark.parametrize("words", BROKEN_SCANS)
def test_a_broken_scan_is_refused_with_one_line_and_the_exit_code_of_rare(words, sanitised, bundle, predictor, tmp_path):
    break_it, exit_code = BROKEN_SCANS[words]
    scan = write_scan(tmp_path / "scan.nii.gz", 2.0, "RAS", 32)
    image = nib.load(scan)
    image.set_qform(image.affine, 1)
    nib.save(image, scan)
    break_it(scan)
    with pytest.raises(RareError) as error:
        predictor.predict(scan)
    assert error.value.exit_code == exit_code
    require_refused(infer(sanitised, scan, bundle, tmp_path / "labels.nii.gz"), exit_code, words)
    assert not list(tmp_path.glob("*labels*"))


def require_refused(result: subprocess.CompletedProcess, exit_code: int, words: str) -> None:
    assert result.returncode == exit_code, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert result.stdout == ""


def append_a_byte(name: str):
    def change(bundle: Path) -> None:
        (bundle / name).write_bytes((bundle / name).read_bytes() + b"\0")

    return change


def edit_manifest(old: str, new: str):
    def change(bundle: Path) -> None:
        text = (bundle / "manifest.json").read_text()
        assert old in text
        (bundle / "manifest.json").write_text(text.replace(old, new))

    return change


BROKEN_BUNDLES = {
    "manifest is missing": lambda bundle: (bundle / "manifest.json").unlink(),
    "is broken": edit_manifest('"divisors"', '"divisor"'),
    "unknown schema version": edit_manifest('"schema_version": 2,\n "spec"', '"schema_version": 99,\n "spec"'),
    "depth1.onnx; found: SHA-256": append_a_byte("depth1.onnx"),
    "weights.safetensors; found: SHA-256": append_a_byte("weights.safetensors"),
    "a path leaves the bundle": edit_manifest('"depth1.onnx"', '"../depth1.onnx"'),
    "a file of the bundle is missing": lambda bundle: (bundle / "depth1.onnx").unlink(),
}


@pytest.mark.parametrize("words", BROKEN_BUNDLES)
def test_a_broken_bundle_is_refused(words, sanitised, bundle, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", 2.0, "RAS", 32)
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    BROKEN_BUNDLES[words](copy)
    require_refused(infer(sanitised, scan, copy, tmp_path / "labels.nii.gz"), 4, words)


def test_only_the_routed_engine_is_opened(release, bundle, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", 2.0, "RAS", 32)
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    for depth in (0, 2, 3):
        (copy / f"depth{depth}.onnx").unlink()
    result = infer(release, scan, copy, tmp_path / "labels.nii.gz")
    assert result.returncode == 0, result.stderr


def test_depths_that_were_not_exported_are_routed_around(release, run, tmp_path):
    export(run, tmp_path / "bundle", ExportOptions(depths=[1, 3], check=False))
    with Predictor(tmp_path / "bundle", backend="openvino") as two_depths:
        for spacing in (1.0, 4.0, 8.0):
            scan = write_scan(tmp_path / "scan.nii.gz", spacing, "RAS", 48)
            result = infer(release, scan, tmp_path / "bundle", tmp_path / "labels.nii.gz")
            assert result.returncode == 0, result.stderr
            require_same(scan, tmp_path / "labels.nii.gz", two_depths, tmp_path)


WRONG_OPTIONS = {
    "no engine for this depth; found: 9; expected: 0, 1, 2, 3": (["--depth", "9"], 2),
    "no whole number": (["--depth", "one"], 2),
    "unknown backend; found: cuda": (["--backend", "cuda"], 2),
    "built without tensorrt": (["--backend", "tensorrt"], 5),
    "unknown option": (["--fast"], 2),
    "lacks its value": (["--depth"], 2),
    "more than one scan": (["other.nii.gz"], 2),
    "not a NIfTI file name": (["-o", "labels.png"], 2),
    "cannot be written": (["-o", "/dev/null/labels.nii.gz"], 5),
    "manifest is missing": (["-b", "nowhere"], 4),
}


@pytest.mark.parametrize("words", WRONG_OPTIONS)
def test_wrong_options_are_refused(words, sanitised, bundle, tmp_path):
    options, exit_code = WRONG_OPTIONS[words]
    scan = write_scan(tmp_path / "scan.nii.gz", 4.0, "RAS", 32)
    require_refused(infer(sanitised, scan, bundle, tmp_path / "labels.nii.gz", *options), exit_code, words)


def test_the_scan_is_not_replaced(sanitised, bundle, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", 4.0, "RAS", 32)
    require_refused(infer(sanitised, scan, bundle, scan), 2, "would replace the scan")
