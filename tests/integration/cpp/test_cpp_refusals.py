"""The C++ consumer refuses broken scans, broken bundles and wrong options with one line and the exit code of rare."""

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cpp_consumer import infer, write_scan

from rarecli.core.errors import RareError, UsageError
from rarecli.core.prediction.predict import predict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


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
    "not a NIfTI file": (of_zeros, 3),
    "voxels that are not finite": (with_nan, 3),
    "not at right angles": (with_shear, 3),
    "the unit of length is unknown": (header_field(123, b"\x05"), 3),
    "more voxels than the file can hold": (header_field(42, b"\xff\x7f\xff\x7f\xff\x7f"), 3),
    "positive sizes": (header_field(42, b"\x00\x00"), 3),
    "the voxel type is not a plain number": (header_field(70, b"\x80\x00"), 3),
    "the spacing is unknown": (header_field(80, bytes(4) + b"\x00\x00\x80\x3f" * 2 + bytes(164) + bytes(4)), 3),
    "sform and qform disagree": (header_field(80, b"\x00\x00\x80\x40"), 3),
    "quaternion is not a rotation": (header_field(252, b"\x01\x00\x00\x00\x00\x00\x00\x40"), 3),
    "bytes behind the end of the stream": (lambda scan: scan.write_bytes(scan.read_bytes() + b"q"), 3),
    "vox_offset": (header_field(108, b"\x17\xb7\xd1\x38"), 3),  # 1e-4
    "too far from the grid": (header_field(123, b"\x01"), 3),  # metres
    "a different number of channels; found: 2; expected: 1": (with_channels, 4),
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


def edit_entries(entries, *, of_routing: bool = True):
    """Give the engines other entries; and routing as well, or not."""

    def change(bundle: Path) -> None:
        content = json.loads((bundle / "manifest.json").read_text())
        for engine, entry in zip(content["engines"], entries, strict=True):
            engine["entry"] = entry
        if of_routing:
            content["routing"]["entries"] = entries
        (bundle / "manifest.json").write_text(json.dumps(content))

    return change


BROKEN_BUNDLES = {
    "the file is missing; path: ": lambda bundle: (bundle / "manifest.json").unlink(),
    "the file is not valid JSON": edit_manifest('"spec"', "spec"),
    "divisors = null; expected: a value": edit_manifest('"divisors"', '"divisor"'),
    "schema_version = 99": edit_manifest('"schema_version": 5,\n "spec"', '"schema_version": 99,\n "spec"'),
    "entry_1_1_1.onnx; found: SHA-256": append_a_byte("entry_1_1_1.onnx"),
    "weights.safetensors; found: SHA-256": append_a_byte("weights.safetensors"),
    "a path leaves the bundle": edit_manifest('"entry_1_1_1.onnx"', '"../entry_1_1_1.onnx"'),
    "overlap = 0.999": edit_manifest('"overlap": 0.5', '"overlap": 0.999'),
    "sigma = 0": edit_manifest('"sigma": 0.125', '"sigma": 0'),
    "upper = 1000": edit_manifest('"upper": 99.5', '"upper": 1000'),
    "engines.1.entry.2 = 1099511627776": edit_entries([[0, 0, 0], [1, 1, 2**40], [2, 2, 2], [3, 3, 3]]),
    "routing to other entries": edit_entries([[0, 0, 0], [1, 1, 2], [2, 2, 2], [3, 3, 3]], of_routing=False),
    "or to one twice": edit_entries([[0, 0, 0], [1, 1, 1], [1, 1, 1], [3, 3, 3]]),
    "an engine of depth 4": edit_entries([[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 3, 4]]),
    "routing by the finest axis": edit_entries([[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 2]]),
    'by = "coarsest"': edit_manifest('"by": "finest"', '"by": "coarsest"'),
    "min_box_voxels = 1000000000.0": edit_manifest('"min_box_voxels": 1.0', '"min_box_voxels": 1e9'),
    "multiples of 7 x ": edit_manifest('"divisors": [\n    8,', '"divisors": [\n    7,'),
    "divisors.0 = 0": edit_manifest('"divisors": [\n    8,', '"divisors": [\n    0,'),
    "a file of the bundle is missing": lambda bundle: (bundle / "entry_1_1_1.onnx").unlink(),
}


@pytest.mark.parametrize("words", BROKEN_BUNDLES)
def test_a_broken_bundle_is_refused(words, sanitised, bundle, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", 2.0, "RAS", 32)
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    BROKEN_BUNDLES[words](copy)
    require_refused(infer(sanitised, scan, copy, tmp_path / "labels.nii.gz"), 4, words)


WRONG_OPTIONS = {
    "no engine for this entry; found: depth 9; expected: depth 0, depth 1, depth 2, depth 3": (["--depth", "9"], 2),
    "no engine for this entry; found: entry 0,0,2; expected: depth 0": (["--entry", "0,0,2"], 2),
    "--depth is not a whole number; found: one": (["--depth", "one"], 2),
    "--depth is not a whole number; found: 0,0,2": (["--depth", "0,0,2"], 2),
    "--entry is not three whole numbers; found: 0,2": (["--entry", "0,2"], 2),
    "--entry is not three whole numbers; found: 0,0,2,": (["--entry", "0,0,2,"], 2),
    "--entry is not three whole numbers; found: 0;0;2": (["--entry", "0;0;2"], 2),
    "can be forced once": (["--depth", "1", "--entry", "1,1,1"], 2),
    "unknown backend; found: cuda": (["--backend", "cuda"], 2),
    "built without tensorrt": (["--backend", "tensorrt"], 5),
    "unknown option": (["--fast"], 2),
    "has no value": (["--depth"], 2),
    "more than one scan": (["other.nii.gz"], 2),
    "not a NIfTI file name": (["-o", "labels.png"], 2),
    "cannot be written": (["-o", "/dev/null/labels.nii.gz"], 5),
    "the file is missing; path: nowhere": (["-b", "nowhere"], 4),
}


@pytest.mark.parametrize("words", WRONG_OPTIONS)
def test_wrong_options_are_refused(words, sanitised, bundle, tmp_path):
    options, exit_code = WRONG_OPTIONS[words]
    scan = write_scan(tmp_path / "scan.nii.gz", 4.0, "RAS", 32)
    require_refused(infer(sanitised, scan, bundle, tmp_path / "labels.nii.gz", *options), exit_code, words)


def test_the_scan_is_not_replaced(sanitised, bundle, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", 4.0, "RAS", 32)
    require_refused(infer(sanitised, scan, bundle, scan), 2, "would replace the scan")


def test_an_output_that_exists_is_replaced_only_when_asked_to_in_the_words_of_rare(sanitised, bundle, predictor, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", 4.0, "RAS", 32)
    labels, link = tmp_path / "labels.nii.gz", tmp_path / "link.nii.gz"
    labels.write_bytes(b"mine")
    link.symlink_to(tmp_path / "nowhere.nii.gz")
    for output in (labels, link):
        with pytest.raises(UsageError) as error:
            predict([scan], predictor, output)
        assert error.value.remedy is not None
        require_refused(infer(sanitised, scan, bundle, output), 2, f"{error.value.problem}; path: {output}; remedy: {error.value.remedy}")
    assert labels.read_bytes() == b"mine"
    assert infer(sanitised, scan, bundle, labels, "--overwrite").returncode == 0
    assert nib.load(labels).shape == nib.load(scan).shape
    (tmp_path / "folder.nii.gz").mkdir()
    require_refused(infer(sanitised, scan, bundle, tmp_path / "folder.nii.gz", "--overwrite"), 2, "the output is a folder")
    require_refused(infer(sanitised, scan, bundle, scan, "--overwrite"), 2, "would replace the scan")


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("put", "of_scan", "of_manifest"),
    [
        (as_pipe, "not a regular file", "not a regular file; path: "),
        (as_link_to_zeros, "not a regular file", "not a regular file; path: "),
        (Path.mkdir, "this is a folder", "not a regular file; path: "),
    ],
)
def test_what_is_no_regular_file_is_not_opened(put, of_scan, of_manifest, sanitised, bundle, tmp_path):
    put(tmp_path / "odd.nii")
    require_refused(infer(sanitised, tmp_path / "odd.nii", bundle, tmp_path / "labels.nii"), 3, of_scan)
    scan = write_scan(tmp_path / "scan.nii.gz", 4.0, "RAS", 32)
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    for name, words in (("manifest.json", of_manifest), ("entry_2_2_2.onnx", "a file of the bundle is missing")):
        (copy / name).rename(copy / "kept")
        put(copy / name)
        require_refused(infer(sanitised, scan, copy, tmp_path / "labels.nii"), 4, words)
        (copy / name).rmdir() if put is Path.mkdir else (copy / name).unlink()
        (copy / "kept").rename(copy / name)
