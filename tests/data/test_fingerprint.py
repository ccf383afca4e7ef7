import nibabel as nib
import numpy as np
import pytest

from rarecli import Predictor
from rarecli.core.config.plan import Fingerprint, PercentileNormalisation
from rarecli.core.data.fingerprint import Difference, differences, fingerprint, intensity_statistics
from rarecli.core.data.phantoms import Phantom
from rarecli.core.data.prepared import open_prepared
from rarecli.core.imaging.normalisation import normalise
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.scan_rules import rules_of
from rarecli.core.imaging.volume import Volume, write_image
from rarecli.core.prediction.predict import predict


def test_ranges_by_hand():
    found = fingerprint(
        [np.array([32.0, 40, 30]), np.array([35.0, 38, 30])], [np.array([[[0.2, 0.1]], [[0.3, 0.1]]]), np.array([[[0.25, 0.4]]])]
    )
    assert found.extent_mm == ((32, 35), (38, 40), (30, 30))
    assert found.intensity_mean == ((0.2, 0.3),)
    assert found.intensity_std == ((0.1, 0.4),)


def test_statistics_are_those_of_the_normalised_scan_at_every_depth(prepared):
    plan = open_prepared(prepared).plan
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    found = intensity_statistics(image, 1, plan)
    assert found.shape == (plan.num_levels - 1, 1, 2)
    plain = normalise(image, PercentileNormalisation())
    np.testing.assert_allclose(found[0, 0], [plain.mean(), plain.std()], rtol=1e-5)
    blocks = normalise(image.reshape(1, 8, 2, 8, 2, 8, 2).mean(axis=(2, 4, 6)), PercentileNormalisation())
    np.testing.assert_allclose(found[1, 0], [blocks.mean(), blocks.std()], rtol=1e-4)


@pytest.mark.parametrize("spacing", [0.8, 1.0, 1.4, 2.0, 3.0, 4.0, 8.0])
def test_a_scan_like_the_training_scans_is_not_warned_of(run, spacing):
    with Predictor(run, device="cpu") as predictor:
        for seed in (20, 21, 22):
            assert predictor.predict(Phantom(seed).acquire(spacing)[0]).warnings == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda data: (data, np.diag([0.25, 0.25, 0.25, 1])),
            ["spacing along x, 0.25 mm", "of depth 0", "field of view along x is 8 mm"],
        ),
        (lambda data: (np.tile(data, (2, 1, 1)), np.eye(4)), ["field of view along x is 64 mm", "32 to 32 mm"]),
        (lambda data: (np.where(data > np.quantile(data, 0.97), data, 0), np.eye(4)), ["mean of its normalised"]),
        (lambda data: (data, np.diag([1, 1, 9.0, 1])), ["spacing along z, 9 mm"]),
        # between half an octave and a whole one beyond the coarsest entry, and beyond the finest
        (lambda data: (data[::8, ::8, ::8], np.diag([12.0, 12, 12, 1])), ["finest spacing is 12 mm, but depth 3", "about 8 mm"]),
        (lambda data: (data, np.diag([0.6, 0.6, 0.6, 1])), ["finest spacing is 0.6 mm, but depth 0", "about 1 mm"]),
    ],
)
def test_what_is_unlike_is_said(run, change, words):
    data, affine = change(Phantom(20).acquire(1.0)[0].data[0])
    with Predictor(run, device="cpu") as predictor:
        said = " ".join(predictor.predict(data, affine).warnings)
    for word in words:
        assert word in said


def test_a_model_without_a_fingerprint_says_nothing(run):
    with Predictor(run, device="cpu") as predictor:
        spec = predictor.spec
    assert isinstance(spec.plan.fingerprint, Fingerprint)
    routed = prepare_scan(Volume(np.zeros((1, 99, 99, 99), dtype=np.float32), np.eye(4)), rules_of(spec))
    assert differences(routed, spec.plan)
    assert differences(routed, spec.plan.model_copy(update={"fingerprint": None})) == (
        Difference("intensity", "its channel 0 is constant"),
    )


def test_warnings_are_printed_and_recorded(run, tmp_path):
    scan, _ = Phantom(20).acquire(1.0)
    nib.save(nib.Nifti1Image(np.tile(scan.data[0], (1, 2, 1)), np.eye(4)), tmp_path / "wide.nii.gz")
    write_image(tmp_path / "usual.nii.gz", scan.data[0], scan)

    class Ears:
        said: list = []  # noqa: RUF012

        def say(self, text): ...

        def warn(self, text):
            self.said.append(text)

        def track(self, items, label, total, costs=None):
            return items

    with Predictor(run, device="cpu") as predictor:
        result = predict([tmp_path / "wide.nii.gz", tmp_path / "usual.nii.gz"], predictor, tmp_path / "out", reporter=Ears())
    assert len(Ears.said) == len(result["cases"]["wide"]["warnings"]) >= 1
    assert "wide is unlike the training scans: its field of view along y is 64 mm" in Ears.said[0]
    assert result["cases"]["usual"]["warnings"] == []
