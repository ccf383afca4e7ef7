"""The page of `rare export --format html` as a colleague uses it, in headless chromium, from file://."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from dicom_files import save, series

from rarecli import Phantom, Predictor
from rarecli.core.config.geometry import entry_text
from rarecli.core.engines.model_files import built_in_models
from rarecli.core.imaging.volume import Volume, read_volume, write_image, write_labels

pytestmark = pytest.mark.slow
MODEL = built_in_models()["hippocampus"]
MOST_BYTES = 26e6
SCANS = [  # axes and spacing along RAS axes, in mm
    ("RAS", (1, 1, 1)),
    ("LPS", (1, 1, 1)),
    ("PIR", (2, 2, 2)),
    ("SAL", (4, 4, 4)),
    ("IPL", (8, 8, 8)),
    ("ARS", (0.6, 0.6, 0.6)),
    ("RSP", (0.5, 0.5, 3)),
    ("LAS", (1, 1, 2)),
    ("PSR", (1, 1, 4)),
    ("RAI", (1, 1, 8)),
    ("SPR", (4, 1, 1)),
    ("LIA", (1, 6, 1)),
    ("AIL", (1, 1, 1.6)),
    ("RPI", (1.3, 1.1, 1.9)),
    ("SRA", (2, 2, 7)),
    ("LPI", (3, 3, 3)),
    ("IRP", (5, 2.5, 2.5)),
    ("ASL", (12, 12, 12)),
    ("PRS", (0.9, 3.2, 1.7)),
    ("ILA", (1.45, 1.45, 1.45)),
]


@pytest.fixture(scope="module")
def opened(browser, page_file, open_url):
    return open_url(browser.new_context(accept_downloads=True), page_file)


@pytest.fixture(scope="module")
def predictor():
    with Predictor(MODEL, backend="onnx") as predictor:
        yield predictor


def done(page):
    page.wait_for_selector("body[data-state=ready]")
    return page.text_content("#error")


def segmented(opened, path, tmp_path):
    """The labels that the page saves for a scan, and what it shows."""
    page = opened.page
    page.set_input_files("#files", path)
    assert done(page) == ""
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == path.name.replace(".nii", "_labels.nii").removesuffix(".gz") + ".gz"
    download.value.save_as(tmp_path / download.value.suggested_filename)
    volumes = page.eval_on_selector_all("#volumes td", "cells => cells.map(cell => Number(cell.textContent))")
    return nib.load(tmp_path / download.value.suggested_filename), page.inner_text("#route"), volumes


def test_the_file_is_small_and_every_conformance_vector_is_reproduced(opened, page_file):
    assert page_file.stat().st_size <= MOST_BYTES
    opened.page.click("#verify")
    assert done(opened.page) == ""
    vectors = json.loads((MODEL / "manifest.json").read_text())["conformance"]
    lines = opened.page.eval_on_selector_all("#verified li", "items => items.map(item => item.textContent)")
    assert [line.split(":")[0] for line in lines] == [entry_text(vector["entry"]) for vector in vectors]
    assert all(line.endswith("labels correct") for line in lines)
    opened.require_quiet()


def test_the_model_is_loaded_before_a_scan_comes(browser, page_file, open_url):
    context = browser.new_context()
    opened = open_url(context, page_file)
    opened.page.wait_for_selector("body[data-model=wasm][data-state=ready]")
    assert opened.page.inner_text("#words") == ""
    opened.require_quiet()
    context.close()


@pytest.mark.parametrize(("axes", "spacing"), SCANS, ids=[f"{axes} {spacing}" for axes, spacing in SCANS])
def test_the_labels_are_those_of_rare_predict(opened, predictor, tmp_path, axes, spacing):
    scan, _ = Phantom(3, (38.0, 52.0, 36.0)).acquire(spacing, axes)
    path = tmp_path / "scan.nii.gz"
    write_image(path, scan.data[0], scan)
    expected = predictor.predict(path, probabilities=True)
    labels, route, volumes = segmented(opened, path, tmp_path)
    assert route == f"Segmented at {entry_text(expected.entry)}: {expected.reason}."
    second, best = np.sort(expected.probabilities, axis=0)[-2:]
    certain = best - second > 5e-3
    assert certain.mean() > 0.8
    found = np.asarray(labels.dataobj)
    assert np.count_nonzero((found != expected.labels) & certain) == 0
    np.testing.assert_array_equal(labels.affine, nib.load(path).affine)
    voxel_mm3 = np.prod(scan.spacing_mm)
    np.testing.assert_allclose(volumes, [np.count_nonzero(found == value) * voxel_mm3 for value in (1, 2)], atol=0.051)
    assert opened.page.eval_on_selector_all("#warnings li", "items => items.map(item => item.textContent)") == list(expected.warnings)
    opened.require_quiet()


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_the_file_of_labels_has_the_header_of_rare_predict(opened, rare_predict, tmp_path, kind):
    scan, _ = Phantom(3, (38.0, 52.0, 36.0)).acquire(4, "LPS")
    image = kind((1000 * scan.data[0]).astype(">i2"), scan.affine)
    image.header["descrip"] = b"a name"
    image.header.set_intent("estimate", (), "another name")
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(scan.affine, code=2)
    image.set_sform(scan.affine, code=4)
    path = tmp_path / "scan.nii"
    nib.save(image, path)
    rare_predict(path, tmp_path / "expected.nii.gz")
    labels, _, _ = segmented(opened, path, tmp_path)
    with gzip.open(tmp_path / "scan_labels.nii.gz") as found, gzip.open(tmp_path / "expected.nii.gz") as expected:
        size = labels.header.sizeof_hdr + 4
        assert found.read(size) == expected.read(size)


@pytest.fixture(scope="module")
def rare_predict():
    def predict(path, output):
        with Predictor(MODEL, backend="onnx") as predictor:
            scan = read_volume(path)
            write_labels(output, predictor.predict(scan).labels, scan)

    return predict


def make_bad(path, kind):
    scan, _ = Phantom(3, (38.0, 52.0, 36.0)).acquire(4)
    data = scan.data[0].copy()
    if kind == "NaN":
        data[1, 2, 3] = np.nan
    if kind == "channels":
        data = np.stack([data, data], axis=-1)
    content = bytearray(nib.Nifti1Image(data, scan.affine).to_bytes())
    if kind == "singular":
        content[312:328] = bytes(16)  # srow_z
    if kind == "large":
        content[42:48] = np.array([1000, 1000, 600], "<i2").tobytes()
        content += np.random.default_rng(0).bytes(3_000_000)
    if kind == "text":
        content = b"this is a text" * 100
    if kind == "cut":
        content = content[:-7]
    packed = gzip.compress(content)
    if kind == "broken":
        packed = packed[:-9]
    if kind == "behind":
        packed += b"q"
    path.write_bytes(packed)


BAD = {
    "NaN": ["the scan has voxels that are not finite", "1 NaN or infinite voxels, the first at (channel, x, y, z) = (0, 1, 2, 3)"],
    "singular": ["the affine is not invertible"],
    "channels": ["the model was trained for a different number of channels", "found: 2", "expected: 1 (MRI)"],
    "text": ["not a NIfTI file"],
    "cut": ["the file is cut short"],
    "broken": ["the compressed file is broken"],
    "behind": ["the compressed file is broken"],
    "large": ["reading the scan takes more memory than this browser has"],
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gets_the_words_of_the_shell_and_the_page_stays_usable(opened, tmp_path, kind):
    path = tmp_path / "bad.nii.gz"
    make_bad(path, kind)
    opened.page.set_input_files("#files", path)
    words = done(opened.page)
    assert words.splitlines()[0] == BAD[kind][0]
    assert all(part in words for part in BAD[kind])
    assert opened.page.is_hidden("#result")
    write_image(tmp_path / "good.nii.gz", *good(4))
    segmented(opened, tmp_path / "good.nii.gz", tmp_path)
    opened.require_quiet()


def good(spacing):
    scan, _ = Phantom(3, (38.0, 52.0, 36.0)).acquire(spacing)
    return scan.data[0], scan


@pytest.fixture
def dicom_folder(tmp_path):
    """A phantom as a series of slices, 2 mm apart, and a file that is none."""
    scan, _ = Phantom(3, (38.0, 52.0, 36.0)).acquire(2, "LPS")
    pixels = (1000 * scan.data[0]).astype("<i2").transpose(2, 1, 0)
    folder = save(tmp_path / "head", series(pixels, step=(0, 0, 2), PixelSpacing=[2, 2], SliceThickness=2))
    (folder / "notes.txt").write_text("no image")
    return folder


def drop(page, path):
    page.locator("#drop").scroll_into_view_if_needed()  # an earlier scan may have scrolled it away
    session, box = page.context.new_cdp_session(page), page.locator("#drop").bounding_box()
    for kind in ("dragEnter", "dragOver", "drop"):
        dragged = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        session.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 5, "y": box["y"] + 5, "data": dragged})


def test_a_folder_with_a_dicom_series_is_segmented_as_by_rare_predict(opened, predictor, dicom_folder, tmp_path):
    page = opened.page
    expected = predictor.predict(dicom_folder)
    drop(page, dicom_folder)
    page.wait_for_selector("#result:not([hidden])")
    assert done(page) == ""
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "head_labels.nii.gz"
    download.value.save_as(tmp_path / "labels.nii.gz")
    theirs = nib.Nifti1Image(expected.labels.astype(np.uint8), read_volume(dicom_folder).affine)
    found, expected = (nib.as_closest_canonical(image) for image in (nib.load(tmp_path / "labels.nii.gz"), theirs))
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    labels, expected_labels = np.asarray(found.dataobj), np.asarray(expected.dataobj)
    assert np.count_nonzero(expected_labels) > 100
    assert np.mean(labels != expected_labels) < 1e-3
    page.set_input_files("#folder", dicom_folder)
    assert done(page) == ""
    assert page.inner_text("#route").startswith("Segmented at depth 1")
    opened.require_quiet()


@pytest.mark.parametrize(
    ("kind", "words"), [("two series", "the DICOM files hold more than one volume"), ("no image", "the DICOM files are no volume")]
)
def test_dicom_that_is_not_one_volume_is_refused(opened, dicom_folder, tmp_path, kind, words):
    if kind == "two series":
        save(dicom_folder / "other", series(series="1.2.3.5", SeriesNumber=4))
    else:
        dicom_folder = tmp_path / "broken"
        dicom_folder.mkdir()
        (dicom_folder / "image").write_bytes(bytes(128) + b"DICM" + bytes(100))
    opened.page.set_input_files("#folder", dicom_folder)
    assert done(opened.page).startswith(words)
    assert opened.page.is_hidden("#result")
    opened.require_quiet()


def test_a_task_can_be_cancelled_and_another_follows(opened, tmp_path):
    page = opened.page
    scan = Volume(np.random.default_rng(0).random((1, 128, 128, 128), dtype=np.float32), np.eye(4))  # minutes of windows
    write_image(tmp_path / "large.nii.gz", scan.data[0], scan)
    write_image(tmp_path / "good.nii.gz", *good(4))
    page.set_input_files("#files", tmp_path / "large.nii.gz")
    page.wait_for_selector("#words:has-text('Segmenting 2 of')")
    assert 0 < float(page.get_attribute("#progress", "value")) < 1
    page.click("#cancel")
    assert page.inner_text("#words") == "Cancelled."
    assert page.is_hidden("#result")
    segmented(opened, tmp_path / "good.nii.gz", tmp_path)
    opened.require_quiet()


def test_the_viewer_moves_and_hides_the_labels(opened, tmp_path):
    write_image(tmp_path / "good.nii.gz", *good(1))
    segmented(opened, tmp_path / "good.nii.gz", tmp_path)
    page = opened.page
    plane = ".plane[data-plane=axial]"

    def pixels():
        return page.evaluate("() => document.querySelector('.plane[data-plane=axial] canvas').toDataURL()")

    before, words = pixels(), page.inner_text(f"{plane} output")
    page.focus(f"{plane} input")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(f"{plane} output") != words
    assert pixels() != before
    page.keyboard.press("ArrowLeft")
    assert pixels() == before
    page.click("#overlay")
    assert pixels() != before
    page.click("#overlay")
    coronal = page.inner_text(".plane[data-plane=coronal] output")
    box = page.locator(f"{plane} canvas").bounding_box()
    page.mouse.click(box["x"] + 3, box["y"] + 3)
    assert page.inner_text(".plane[data-plane=coronal] output") != coronal


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_nothing_is_wider_than_the_screen(page_file, browser, open_url, tmp_path, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened = open_url(context, page_file)
    write_image(tmp_path / "good.nii.gz", *good(2))
    opened.page.set_input_files("#files", tmp_path / "good.nii.gz")
    assert done(opened.page) == ""
    assert opened.page.evaluate("() => document.documentElement.scrollWidth") == width
    assert "Not a medical device" in opened.page.inner_text("header")
    opened.require_quiet()
    context.close()


def test_a_browser_that_cannot_suspend_webassembly_computes_as_well(page_file, open_page, predictor, tmp_path):
    """As Chromium before 137, which has no JSPI."""
    older = tmp_path / "older.html"
    older.write_text(
        page_file.read_text().replace('id="worker">', 'id="worker">delete WebAssembly.Suspending; delete WebAssembly.promising;')
    )
    opened = open_page(older, accept_downloads=True)
    write_image(tmp_path / "good.nii.gz", *good(2))
    labels, _, _ = segmented(opened, tmp_path / "good.nii.gz", tmp_path)
    assert np.mean(np.asarray(labels.dataobj) != predictor.predict(tmp_path / "good.nii.gz").labels) < 1e-3
    opened.require_quiet()
