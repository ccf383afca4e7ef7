"""Channels of one scan on different grids: refused by name, or brought to the grid of the first.

Intensities are linear in world coordinates, so the right value of every voxel is known, whatever the grids.
"""

import nibabel as nib
import numpy as np
import pytest
from dataset_files import nnunet, put
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from rarecli.cli import app
from rarecli.core.benchmarking import precisions
from rarecli.core.benchmarking.suites import load_suite, random_spec, write_random_run
from rarecli.core.config.run_folder import load_run_info, save_run_info
from rarecli.core.data.case_files import find_scans
from rarecli.core.data.cases import read_image
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.prepared import open_prepared
from rarecli.core.data.preprocess import preprocess
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.model_files import built_in_models
from rarecli.core.errors import DataError, SomeCasesFailed
from rarecli.core.imaging.volume import read_volume

FIRST, SHAPE = np.array([[1.0, 0, 0, -8], [0, 1.5, 0, -9], [0, 0, 2, -8], [0, 0, 0, 1]]), (16, 12, 8)


def turned(degrees, spacing, centre=(0, 0, 0), size=40):
    """The affine of a cube of `size` voxels around `centre`, turned about z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ np.full(3, (size - 1) / 2)
    return affine


def linear(affine, shape):
    x, y, z = (affine @ np.stack([*np.indices(shape).reshape(3, -1), np.ones(np.prod(shape))]))[:3]
    return (100 + 3 * x - 2 * y + 5 * z).reshape(shape).astype(np.float32)


def two(folder, affine, shape, data=None):
    put(folder / "a_0000.nii.gz", linear(FIRST, SHAPE), FIRST)
    put(folder / "a_0001.nii.gz", linear(affine, shape) if data is None else data, affine)
    return [folder / f"a_{channel:04d}.nii.gz" for channel in range(2)]


@pytest.mark.parametrize(
    ("degrees", "spacing", "atol"),
    [
        (0, (1, 1.5, 2), 2e-3),
        (0, (2, 2, 2), 2e-3),
        (0, (0.5, 0.5, 2), 2e-3),
        (30, (2, 2, 2), 2e-3),
        (90, (1.5, 2, 3), 2e-3),
        # averaged by factors that are not whole: within an eighth of a voxel, over which intensities change by 0.8 at most
        (30, (1, 1, 1), 0.4),
        (-20, (0.7, 2.5, 1), 0.4),
    ],
)
def test_every_voxel_has_the_value_of_its_place(degrees, spacing, atol, tmp_path):
    size = 80
    files = two(tmp_path, turned(degrees, spacing, (0.3, -0.2, 0.1), size), (size,) * 3)
    volume = read_volume(files, resample_channels=True)
    assert volume.data.dtype == np.float32
    np.testing.assert_array_equal(volume.affine, FIRST)
    np.testing.assert_allclose(volume.data[1], linear(FIRST, SHAPE), atol=atol)


def test_a_channel_stored_along_other_axes_is_the_same_to_the_bit(tmp_path):
    noise = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    stored = nib.Nifti1Image(noise, FIRST).as_reoriented(nib.orientations.axcodes2ornt("PIL"))
    files = two(tmp_path, stored.affine, None, stored.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(read_volume(files, resample_channels=True).data[1], noise)


def test_finer_channels_are_averaged_so_that_nothing_aliases(tmp_path):
    """Slices that alternate between 0 and 2, half as thick as those of the first channel."""
    fine = FIRST.copy()
    fine[2] = [0, 0, 1, -8.5]
    data = np.zeros((16, 12, 16), np.float32)
    data[..., 1::2] = 2
    np.testing.assert_allclose(read_volume(two(tmp_path, fine, None, data), resample_channels=True).data[1], 1, atol=1e-6)


def test_beyond_its_border_a_channel_is_0(tmp_path):
    half = np.ones((8, 12, 8), np.float32)
    found = read_volume(two(tmp_path, FIRST, None, half), resample_channels=True).data[1]
    assert (found[:8] == 1).all()
    assert not found[8:].any()


def test_a_channel_of_another_place_is_refused(tmp_path):
    far = FIRST.copy()
    far[0, 3] = 500
    with pytest.raises(DataError, match=r"channel a_0001\.nii\.gz does not overlap with the first channel"):
        read_volume(two(tmp_path, far, SHAPE), resample_channels=True)


def test_voxels_that_are_not_finite_are_found_before_they_spread(tmp_path):
    data = linear(turned(0, (2, 2, 2)), (40,) * 3)
    data[20, 20, 20] = np.nan
    with pytest.raises(DataError, match="not finite"):
        read_volume(two(tmp_path, turned(0, (2, 2, 2)), None, data), resample_channels=True)


def test_without_the_option_the_error_names_it(tmp_path):
    files = two(tmp_path, turned(0, (2, 2, 2)), (40,) * 3)
    with pytest.raises(DataError, match=r"channel a_0001\.nii\.gz is on a different grid than a_0000\.nii\.gz") as caught:
        read_volume(files)
    assert "--resample-channels" in str(caught.value)
    [case] = find_scans([tmp_path], 2, resample_channels=True)
    assert read_image(case, 2).data.shape == (2, *SHAPE)


def test_preprocess_brings_them_to_the_first_ones_grid(tmp_path):
    root = nnunet(tmp_path / "data", names=("a",))
    two(root / "imagesTr", turned(15, (2, 2, 2)), (40,) * 3)
    put(root / "labelsTr" / "a.nii.gz", (linear(FIRST, SHAPE) > 100).astype(np.uint8), FIRST)
    plain = PreprocessOptions(num_levels=2, num_jobs=1)
    with pytest.raises((DataError, SomeCasesFailed)) as caught:
        preprocess(root, tmp_path / "no", plain)
    assert "a_0001.nii.gz" in str(caught.value)
    preprocess(root, tmp_path / "yes", PreprocessOptions(num_levels=2, num_jobs=1, resample_channels=True))
    image, _ = open_prepared(tmp_path / "yes").read("a")
    np.testing.assert_allclose(image[1], image[0], atol=2e-3)


@pytest.fixture
def two_channels(tmp_path):
    """A run with two channels that held out the case a and was trained on b, and its dataset, whose second channels lie elsewhere."""
    root = nnunet(tmp_path / "data", labels={"background": 0, "organ": 1})
    for name in ("a", "b"):
        for file in two(tmp_path / name, turned(15, (2, 2, 2)), (40,) * 3):
            file.replace(root / "imagesTr" / file.name.replace("a_", f"{name}_"))
        put(root / "labelsTr" / f"{name}.nii.gz", (linear(FIRST, SHAPE) > 100).astype(np.uint8), FIRST)
    spec = random_spec(load_suite("smoke"))
    plan = spec.plan.model_dump() | {"channel_names": ("T1", "T2"), "label_names": ("background", "organ"), "label_values": (0, 1)}
    network = spec.network.model_copy(update={"in_channels": 2, "num_classes": 2})
    write_random_run(spec.model_copy(update={"plan": type(spec.plan)(**plan), "network": network}), tmp_path / "run")
    info = load_run_info(tmp_path / "run")
    save_run_info(tmp_path / "run", info.model_copy(update={"split": {"train": ["b"], "val": ["a"]}}))
    weights = load_file(tmp_path / "run" / "weights.safetensors")
    for name in [name for name in weights if name.startswith("heads.") and name.endswith("bias")]:
        weights[name] = np.array([0, 100], np.float32)  # it finds the organ everywhere
    save_file(weights, tmp_path / "run" / "weights.safetensors")
    return root, tmp_path / "run"


def test_calibrate_brings_them_to_the_first_ones_grid(two_channels):
    root, run = two_channels
    command = ["calibrate", str(root), "-m", str(run), "--device", "cpu"]
    refused = CliRunner().invoke(app, command)
    assert "is on a different grid" in str(refused.exception)
    assert not (run / "calibration.json").exists()
    CliRunner().invoke(app, [*command, "--resample-channels"], catch_exceptions=False)
    assert (run / "calibration.json").exists()


def test_export_reads_them_for_calibration_on_the_first_ones_grid(two_channels, tmp_path, monkeypatch):
    root, run = two_channels
    read = []
    monkeypatch.setattr(precisions, "export", lambda *_: load_manifest(built_in_models()["hippocampus"]))
    monkeypatch.setattr(precisions, "measure_precisions", lambda _, cases, reporter: read.extend(map(read_image, cases)))
    (tmp_path / "bundle").mkdir()
    with pytest.raises(DataError, match="is on a different grid"):
        precisions.export_calibrated(run, tmp_path / "bundle", root)
    command = ["export", str(run), "-o", str(tmp_path / "bundle"), "--calibrate", str(root), "--resample-channels"]
    CliRunner().invoke(app, command, catch_exceptions=False)
    assert [volume.shape for volume in read] == [SHAPE]
