"""The router without a server: the same labels and the same errors as `rare predict`."""

import shutil
import threading
import time
import tracemalloc

import numpy as np
import pytest

from rarecli import Phantom, Predictor
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.errors import DataError, ModelError, RareError, UsageError
from rarecli.core.imaging.orientation import from_ras, to_ras
from rarecli.core.imaging.volume import Volume
from rarecli.core.serving.repository import TritonOptions, render_repository
from rarecli.core.serving.router import WINDOWS_IN_FLIGHT, Router, open_repository


@pytest.fixture(scope="module")
def predictor(bundle):
    with Predictor(bundle, backend="onnx") as opened:
        yield opened


@pytest.fixture(scope="module")
def router(bundle, predictor):
    opened = Router(load_manifest(bundle), predictor.runner.run)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("spacing", "extent"), [(1.0, (32, 32, 32)), (1.0, (70, 90, 40)), ((4.0, 5.5, 4.0), (40, 40, 40)), (11.0, (60, 60, 60))]
)
def test_the_answer_is_that_of_rare_predict(spacing, extent, router, predictor):
    scan, _ = Phantom(4, extent).acquire(spacing, "RAS")
    answer = router.answer(scan.data.astype(np.float32), scan.spacing_mm, None, {"probabilities", "warnings"})
    expected = predictor.predict(scan, probabilities=True)
    assert answer["entry"].tolist() == list(expected.entry)
    assert answer["reason"].tolist() == [expected.reason.encode()]
    assert tuple(answer["zoom"]) == expected.zoom
    assert answer["grid_spacing_mm"].tolist() == [2.0**depth for depth in expected.entry]
    assert tuple(text.decode() for text in answer["warnings"]) == expected.warnings
    np.testing.assert_array_equal(answer["labels"], expected.labels)
    if expected.zoom == (1, 1, 1):  # the routed grid, where probabilities stay, is the scan's own
        np.testing.assert_array_equal(answer["probabilities"], expected.probabilities)
    else:
        routed_shape = tuple(int(size * zoom + 0.5) for size, zoom in zip(scan.shape, expected.zoom, strict=True))
        assert answer["probabilities"].shape[1:] == routed_shape


def test_a_model_that_crops_places_its_labels_and_serves_no_probabilities(bundle, predictor):
    """Nobody outside could place probabilities of the box. Labels lie on the whole image: 0 in its margin of zeros."""
    manifest = load_manifest(bundle)
    plan = manifest.spec.plan.model_copy(update={"crop": "nonzero"})
    router = Router(manifest.model_copy(update={"spec": manifest.spec.model_copy(update={"plan": plan})}), predictor.runner.run)
    scan, _ = Phantom(4).acquire(1.0, "RAS")
    image = scan.data.astype(np.float32) - scan.data.min() + 1
    margin = np.pad(image, [(0, 0), (3, 0), (0, 5), (1, 2)])
    labels = router.answer(margin, scan.spacing_mm, None, set())["labels"]
    np.testing.assert_array_equal(labels[3:, :-5, 1:-2], predictor.predict(image, scan.affine).labels)
    assert labels[:3].max() == labels[:, -5:].max() == 0
    with pytest.raises(UsageError, match="no probabilities"):
        router.answer(margin, scan.spacing_mm, None, {"probabilities"})
    router.close()


@pytest.mark.parametrize(("spacing", "entry"), [((1.0, 1.0, 4.0), [0, 0, 2]), ((4.0, 1.0, 1.0), [2, 0, 0]), ((1.0, 1.3, 3.0), [0, 0, 2])])
def test_thick_slices_enter_at_a_depth_per_axis(spacing, entry, thick_bundle):
    scan, _ = Phantom(4, (35.0, 50.0, 36.0)).acquire(spacing)
    with Predictor(thick_bundle, backend="onnx") as predictor:
        router = Router(load_manifest(thick_bundle), predictor.runner.run)
        answer = router.answer(scan.data.astype(np.float32), scan.spacing_mm, None, set())
        router.close()
        expected = predictor.predict(scan)
    assert answer["entry"].tolist() == entry
    assert tuple(answer["zoom"]) == expected.zoom
    np.testing.assert_array_equal(answer["labels"], expected.labels)


def test_what_was_not_asked_for_is_not_computed_and_an_entry_can_be_forced(router):
    answer = router.answer(np.random.default_rng(0).random((1, 16, 16, 16), dtype=np.float32), (2.0, 2.0, 2.0), (2, 2, 2), set())
    assert set(answer) == {"labels", "entry", "reason", "grid_spacing_mm", "zoom"}
    assert answer["entry"].tolist() == [2, 2, 2]
    assert answer["reason"].tolist()[0].startswith(b"requested with --depth")


def test_windows_go_out_together_in_one_shape_and_come_back_in_order(bundle, predictor):
    lock, shapes, under_way, most = threading.Lock(), [], 0, 0

    def infer(window, entry):
        nonlocal under_way, most
        with lock:
            shapes.append(window.shape)
            under_way += 1
            most = max(most, under_way)
            number = len(shapes)
        time.sleep(0.002 * (number % 3))  # later windows overtake earlier ones
        logits = predictor.runner.run(window, entry)
        with lock:
            under_way -= 1
        return logits

    image = np.random.default_rng(1).random((1, 80, 12, 70), dtype=np.float32)
    router = Router(load_manifest(bundle), infer)
    answer = router.answer(image, (2.0, 2.0, 2.0), None, {"probabilities"})
    router.close()
    assert 2 < most <= WINDOWS_IN_FLIGHT
    assert set(shapes) == {(1, 1, 16, 16, 16)}
    assert len(shapes) == 9 * 8  # ceil((80 - 16) / 8) + 1 along x, ceil((70 - 16) / 8) + 1 along z
    expected = predictor.predict(Volume(image, np.diag([2.0, 2.0, 2.0, 1.0])), probabilities=True)
    np.testing.assert_array_equal(answer["probabilities"], expected.probabilities)


def with_nan(image):
    image[0, 1, 2, 3] = np.nan
    return image


REFUSED = {
    "channels": (lambda image: np.concatenate([image, image]), (2.0, 2.0, 2.0), None, ModelError),
    "NaN": (with_nan, (2.0, 2.0, 2.0), None, DataError),
    "no voxels": (lambda image: image[:, :0], (2.0, 2.0, 2.0), None, DataError),
    "spacing of zero": (lambda image: image, (2.0, 0.0, 2.0), None, DataError),
    "spacing of NaN": (lambda image: image, (2.0, float("nan"), 2.0), None, DataError),
    "negative spacing": (lambda image: image, (2.0, 2.0, -2.0), None, DataError),
    "spacing whose square is no number": (lambda image: image, (1e300, 1e300, 1e300), None, DataError),
    "spacing of a picometre": (lambda image: image, (1e-9, 1e-9, 1e-9), None, DataError),
    "far too coarse": (lambda image: image, (2.0, 9e9, 2.0), None, DataError),
    "no such depth": (lambda image: image, (2.0, 2.0, 2.0), (7, 7, 7), UsageError),
    "no such entry": (lambda image: image, (2.0, 2.0, 2.0), (0, 0, 1), UsageError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_the_words_of_rare_predict(case, router, predictor):
    change, spacing, entry, kind = REFUSED[case]
    image = change(np.random.default_rng(0).random((1, 12, 12, 12), dtype=np.float32))
    with pytest.raises(kind) as refused:
        router.answer(image, spacing, entry, set())
    if not all(0 < size < 1e200 for size in spacing):  # a file with it has a broken affine
        assert refused.value.problem == "the spacing is not finite and positive"
        return
    with pytest.raises(RareError) as expected:
        predictor.predict(image, np.diag([*spacing, 1.0]), entry=entry)
    assert str(refused.value) == str(expected.value)


@pytest.mark.parametrize(
    ("shape", "spacing", "entry", "grown"),
    [
        ((64, 64, 64), (1.0, 32.0, 32.0), None, "64 x 2048 x 2048"),
        ((64, 64, 64), (1.0, 1.0, 250.0), None, "64 x 64 x 16000"),
        ((40, 40, 40), (8.0, 8.0, 8.0), (0, 0, 0), "320 x 320 x 320"),
        ((1, 1, 40_000), (1.0, 1.0, 1.0), None, "32 x 32 x 40000"),  # by padding
    ],
)
def test_a_scan_that_would_take_far_more_memory_than_it_was_sent_with_is_refused(shape, spacing, entry, grown, router):
    image = np.random.default_rng(0).random((1, *shape), dtype=np.float32)
    tracemalloc.start()
    with pytest.raises(DataError) as refused:
        router.answer(image, spacing, entry, set())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.problem == "the scan would become too large for a server"
    assert refused.value.found == f"{' x '.join(map(str, shape))} voxels would become {grown}"
    assert most < 2 * image.nbytes + 2**20


def test_a_small_scan_may_grow_and_a_thick_one_may_grow_by_ten(router):
    small = np.random.default_rng(0).random((1, 8, 8, 8), dtype=np.float32)
    assert router.answer(small, (8.0, 8.0, 8.0), (0, 0, 0), set())["labels"].shape == (8, 8, 8)  # 512 times as many voxels
    thick = np.random.default_rng(0).random((1, 24, 24, 8), dtype=np.float32)
    assert router.answer(thick, (1.0, 1.0, 10.0), None, set())["labels"].shape == (24, 24, 8)


def test_a_scan_in_other_axes_comes_back_in_its_own(router, predictor):
    """The client sends RAS axes and reorients the labels."""
    scan, _ = Phantom(4).acquire((1.0, 2.5, 1.0), "PSL")
    ras = to_ras(scan)
    answer = router.answer(np.ascontiguousarray(ras.data, dtype=np.float32), ras.spacing_mm, None, set())
    expected = predictor.predict(scan)
    assert answer["entry"].tolist() == list(expected.entry)
    assert tuple(answer["zoom"]) == expected.zoom != (1, 1, 1)
    np.testing.assert_array_equal(from_ras(answer["labels"], scan.affine), expected.labels)


def test_a_repository_is_opened_only_whole_and_unchanged(bundle, run, tmp_path):
    repository = tmp_path / "repository"
    render_repository(bundle, repository, TritonOptions("python"))
    assert open_repository(repository, "rare", "1", "python") == load_manifest(bundle)
    engine = repository / "rare_entry_1_1_1" / "1" / "entry_1_1_1.onnx"
    content = engine.read_bytes()
    engine.write_bytes(content + b"\0")
    with pytest.raises(ModelError, match="a file of the bundle was changed"):
        open_repository(repository, "rare", "1", "python")
    engine.unlink()
    with pytest.raises(ModelError, match="a file of the bundle is missing"):
        open_repository(repository, "rare", "1", "python")
    engine.write_bytes(content)
    shutil.copyfile(repository / "rare" / "1" / "manifest.json", tmp_path / "kept.json")
    manifest = repository / "rare_entry_3_3_3" / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"overlap": 0.5', '"overlap": 0.25'))
    with pytest.raises(ModelError, match="rendered from different bundles"):
        open_repository(repository, "rare", "1", "python")
    router = repository / "rare" / "1" / "manifest.json"
    router.write_text(router.read_text().replace('"schema_version": 5', '"schema_version": 99'))
    with pytest.raises(ModelError, match="manifest"):
        open_repository(repository, "rare", "1", "python")
