import json
import os

import nibabel as nib
import numpy as np
import pytest

from rarecli.core.config.plan import CtNormalisation
from rarecli.core.data.phantoms import Phantom, write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.prepared import open_prepared
from rarecli.core.data.preprocess import preprocess
from rarecli.core.errors import DataError, SomeCasesFailed, UsageError
from rarecli.core.imaging.padding import fit_shape
from rarecli.core.imaging.volume import read_labels, read_volume, write_image, write_labels
from rarecli.core.info.info import info

EXTENT = (16.0, 16.0, 16.0)


def options(**chosen):
    return PreprocessOptions(**{"num_levels": 3, "num_jobs": 1} | chosen)


def dataset(root, num=2, more=()):
    """Write phantoms at 1 mm, and one more for each (name, spacing, orientation)."""
    write_phantoms(root, range(num), extent_mm=EXTENT)
    description = json.loads((root / "dataset.json").read_text())
    for seed, (name, spacing, orientation) in enumerate(more, start=100):
        image, labels = Phantom(seed, EXTENT).acquire(spacing, orientation)
        write_image(root / "imagesTr" / f"{name}.nii.gz", image.data[0], image)
        write_labels(root / "labelsTr" / f"{name}.nii.gz", labels.data[0], labels)
        description["training"].append({"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"})
    del description["numTraining"]
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def raw(source, name):
    image, labels = read_volume(source / "imagesTr" / f"{name}.nii.gz"), read_labels(source / "labelsTr" / f"{name}.nii.gz")
    return image.data, labels.data[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    more = [("half", 2.0, "RAS"), ("quarter", 4.0, "RAS"), ("turned", 1.0, "PIL"), ("fine", 0.5, "RAS")]
    return dataset(tmp_path_factory.mktemp("source"), 3, more)


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "prepared"
    preprocess(source, output, options(num_jobs=2))
    return open_prepared(output)


def test_the_plan_is_what_most_cases_are(prepared):
    plan = prepared.plan
    assert plan.spacing_mm == (1, 1, 1)
    assert plan.patch_size == (16, 16, 16)
    assert plan.label_names == ("background", "head", "tail")
    assert plan.label_values == (0, 1, 2)
    assert plan.channel_names == ("channel 0",)
    assert (plan.num_levels, plan.fixed_shape) == (3, False)


def test_every_case_is_counted_at_the_depth_where_it_enters(prepared):
    assert prepared.index.routing_plan == (5, 1, 1)
    assert {name: record.depth for name, record in prepared.records.items() if record.depth} == {"half": 1, "quarter": 2}
    assert prepared.index.fingerprint["num_cases"] == 7


@pytest.mark.parametrize(("name", "size"), [("phantom_000", 16), ("half", 8), ("quarter", 4)])
def test_a_case_on_a_grid_is_kept_voxel_for_voxel_and_never_upsampled(source, prepared, name, size):
    image, labels = prepared.read(name)
    raw_image, raw_labels = raw(source, name)
    assert image.shape == (1, size, size, size)
    assert np.array_equal(image, raw_image)
    assert np.array_equal(labels, raw_labels)


def test_a_turned_case_is_kept_in_ras_axes(source, prepared):
    image, _ = prepared.read("turned")
    canonical = nib.as_closest_canonical(nib.load(source / "imagesTr" / "turned.nii.gz"))
    assert np.array_equal(image[0], canonical.get_fdata(dtype=np.float32))


def test_a_finer_case_is_averaged_down_to_the_trained_grid(source, prepared):
    image, labels = prepared.read("fine")
    raw_image, raw_labels = raw(source, "fine")
    assert image[0] == pytest.approx(raw_image[0].reshape(16, 2, 16, 2, 16, 2).mean(axis=(1, 3, 5)), abs=1e-6)
    blocks = raw_labels.reshape(16, 2, 16, 2, 16, 2)
    counts = np.stack([(blocks == k).sum(axis=(1, 3, 5)) for k in range(3)])
    clear = np.sort(counts, axis=0)[-1] > np.sort(counts, axis=0)[-2]  # ties are tested in tests/imaging
    assert clear.mean() > 0.9
    assert np.array_equal(labels[clear], counts.argmax(axis=0)[clear])


def test_the_records_tell_what_lies_in_the_files(source, prepared):
    for name, record in prepared.records.items():
        image, labels = prepared.read(name)
        assert record.shape == labels.shape == image.shape[1:]
        assert record.voxels_per_class == tuple(int((labels == k).sum()) for k in range(3))
        assert record.source_shape == raw(source, name)[1].shape
    assert prepared.index.fingerprint["voxels_per_class"] == np.sum([r.voxels_per_class for r in prepared.index.cases], axis=0).tolist()


def test_a_case_larger_than_the_patch_keeps_its_percentiles_at_every_depth(tmp_path):
    write_phantoms(tmp_path / "in", range(1), extent_mm=(32.0, 16.0, 16.0))
    preprocess(tmp_path / "in", tmp_path / "out", options(patch_size=(16, 16, 16)))
    prepared = open_prepared(tmp_path / "out")
    record, (image, _) = prepared.records["phantom_000"], prepared.read("phantom_000")
    assert len(record.limits) == 3
    for limits in record.limits:
        assert limits[0] == pytest.approx(np.percentile(image[0].astype(np.float64), [0.5, 99.5]), rel=1e-6)
        x, y, z = (size // 2 for size in image.shape[1:])
        image = image.reshape(1, x, 2, y, 2, z, 2).mean(axis=(2, 4, 6))


def test_a_case_that_a_patch_holds_has_its_percentiles_taken_anew(prepared):
    assert all(record.limits == () for record in prepared.records.values())


def test_one_job_and_two_give_the_same(source, prepared, tmp_path):
    preprocess(source, tmp_path / "one", options())
    assert (tmp_path / "one" / "prepared.json").read_bytes() == (prepared.root / "prepared.json").read_bytes()
    names = sorted(file.name for file in (prepared.root / "cases").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "one" / "cases").iterdir())
    for name in names:
        assert (tmp_path / "one" / "cases" / name).read_bytes() == (prepared.root / "cases" / name).read_bytes()


def test_fixed_shape_crops_and_pads_without_resampling(source, tmp_path):
    shape = (24, 16, 16)
    index = preprocess(source, tmp_path / "out", options(fixed_shape=shape))
    assert index.plan.fixed_shape
    assert index.plan.patch_size == shape
    assert [record.depth for record in index.cases] == [0] * 7
    for name in ("phantom_000", "half"):
        image, labels = open_prepared(tmp_path / "out").read(name)
        raw_image, raw_labels = raw(source, name)
        assert np.array_equal(image, fit_shape(raw_image, shape))
        assert np.array_equal(labels, fit_shape(raw_labels, shape))


def test_the_routing_plan_counts_the_cases_of_a_fixed_shape_where_they_enter(source, tmp_path):
    assert preprocess(source, tmp_path / "out", options(fixed_shape=(16, 16, 16))).routing_plan == (7, 0, 0)


def test_ct_normalisation_is_the_foreground_of_all_cases(tmp_path):
    source = dataset(tmp_path / "in", 2)
    index = preprocess(source, tmp_path / "out", options(normalisation="ct"))
    # a phantom of 16^3 voxels has fewer foreground voxels than are sampled, so all of them count
    values = np.concatenate([raw(source, name)[0][0][raw(source, name)[1] > 0] for name in ("phantom_000", "phantom_001")])
    rule = index.plan.normalisation
    assert isinstance(rule, CtNormalisation)
    assert rule.mean[0] == pytest.approx(values.mean(), rel=1e-5)
    assert rule.std[0] == pytest.approx(values.std(), rel=1e-5)
    assert (rule.lower[0], rule.upper[0]) == pytest.approx(np.percentile(values, [0.5, 99.5]), rel=1e-5)


def test_a_chosen_spacing_and_patch_are_kept(tmp_path):
    index = preprocess(dataset(tmp_path / "in", 1), tmp_path / "out", options(spacing_mm=(2.0, 2.0, 2.0), patch_size=(16, 32, 24)))
    assert index.plan.spacing_mm == (2, 2, 2)
    assert index.plan.patch_size == (16, 32, 24)
    assert index.cases[0].shape == (8, 8, 8)
    assert index.cases[0].depth == 0


@pytest.mark.parametrize("option", ["patch_size", "fixed_shape"])
def test_a_patch_that_does_not_suit_is_refused_naming_both_neighbours(tmp_path, option):
    with pytest.raises(UsageError) as caught:
        preprocess(dataset(tmp_path / "in", 1), tmp_path / "out", options(**{option: (16, 20, 16)}))
    words = str(caught.value)
    assert "patch size along y" in words
    assert "found: 20" in words
    assert "16 or 24" in words
    assert not (tmp_path / "out").exists()


def test_patch_and_fixed_shape_together_are_refused(tmp_path):
    with pytest.raises(UsageError, match="fixed-shape"):
        preprocess(tmp_path, tmp_path / "out", options(patch_size=(16, 16, 16), fixed_shape=(16, 16, 16)))


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (float("nan"), 1.0, 1.0)])
def test_a_spacing_that_is_none_is_refused(tmp_path, spacing):
    with pytest.raises(UsageError):
        preprocess(dataset(tmp_path / "in", 1), tmp_path / "out", options(spacing_mm=spacing))


def test_a_bad_case_is_named_and_the_others_are_prepared(tmp_path):
    source = dataset(tmp_path / "in", 2)
    path = source / "imagesTr" / "phantom_001.nii.gz"
    image = nib.load(path)
    data = image.get_fdata(dtype=np.float32)
    data[1, 2, 3] = np.nan
    nib.save(nib.Nifti1Image(data, image.affine), path)
    with pytest.raises(SomeCasesFailed, match="1 of 2 cases failed") as caught:
        preprocess(source, tmp_path / "out", options())
    assert "phantom_001  the scan has voxels that are not finite" in str(caught.value)
    assert caught.value.result["failed"].keys() == {"phantom_001"}
    assert list(open_prepared(tmp_path / "out").records) == ["phantom_000"]
    assert [item.name for item in (tmp_path / "out" / "cases").iterdir()] == ["phantom_000.safetensors"]
    assert info(tmp_path / "out")["failed"][0].startswith("phantom_001: the scan has voxels that are not finite")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["in", "out"]


def test_a_bad_case_keeps_the_prepared_dataset_that_was_there(tmp_path):
    source = dataset(tmp_path / "in", 1)
    preprocess(source, tmp_path / "out", options())
    before = (tmp_path / "out" / "prepared.json").read_bytes()
    (source / "labelsTr" / "phantom_000.nii.gz").write_bytes(b"broken")
    with pytest.raises(DataError):
        preprocess(source, tmp_path / "out", options(overwrite=True))
    assert (tmp_path / "out" / "prepared.json").read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["in", "out"]


def test_a_foreign_output_folder_is_refused_and_kept(tmp_path):
    source = dataset(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not a prepared dataset"):
        preprocess(source, tmp_path / "out", options())
    with pytest.raises(UsageError, match="the name of a file"):
        preprocess(source, tmp_path / "out" / "thesis.txt", options())
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_fault_25_a_case_without_foreground_is_prepared(tmp_path):
    """Prepared, with no foreground voxels to centre a patch on."""
    source = dataset(tmp_path / "in", 2)
    path = source / "labelsTr" / "phantom_001.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    preprocess(source, tmp_path / "out", options())
    prepared = open_prepared(tmp_path / "out")
    assert prepared.records["phantom_001"].voxels_per_class == (16**3, 0, 0)
    assert prepared.foreground("phantom_001").shape == (0, 3)


def plain(root, values):
    for index, value in enumerate(values):
        for folder, data in (("images", np.arange(16**3, dtype=np.float32)), ("labels", np.full(16**3, 0, np.uint8))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            if folder == "labels":
                data[:100] = value
            nib.save(nib.Nifti1Image(data.reshape(16, 16, 16), np.eye(4)), root / folder / f"c{index}.nii")
    return root


def test_undeclared_labels_of_plain_folders_are_those_that_occur(tmp_path):
    index = preprocess(plain(tmp_path / "in", [7, 3]), tmp_path / "out", options())
    assert index.plan.label_values == (0, 3, 7)
    assert index.plan.num_classes == 3
    assert [record.voxels_per_class for record in index.cases] == [(3996, 0, 100), (3996, 100, 0)]


def test_fault_25_labels_that_are_empty_everywhere_are_a_data_error(tmp_path):
    """A dataset without any foreground is refused."""
    with pytest.raises(DataError):
        preprocess(plain(tmp_path / "in", [0]), tmp_path / "out", options())


def test_constant_channels_and_labels_without_a_case_are_named(tmp_path):
    write_phantoms(tmp_path / "data", range(2), 4.0)
    description = tmp_path / "data" / "dataset.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps(content | {"labels": content["labels"] | {"3": "tumour"}}))
    image, _ = Phantom(1).acquire(4.0)
    write_image(tmp_path / "data" / "imagesTr" / "phantom_001.nii.gz", np.full(image.shape, 7.0), image)
    said = []
    listener = type("Listener", (), {"warn": said.append, "say": lambda self, text: None, "track": lambda self, items, *_: items})
    preprocess(tmp_path / "data", tmp_path / "out", PreprocessOptions(num_jobs=1, patch_size=(32, 32, 32)), listener())
    assert "phantom_001: channel 0 is constant" in said
    assert any("label tumour is in none of 2 cases" in text for text in said)


def test_fault_53_a_link_planted_where_a_case_is_written_is_not_followed(phantom_dataset, tmp_path):
    """Temporary files have random names, which nobody can guess."""
    cases = tmp_path / ".out.unfinished" / "cases"
    cases.mkdir(parents=True)
    (tmp_path / "precious").write_text("mine")
    for number in range(os.getpid(), os.getpid() + 200):  # this process, and any worker that it starts
        (cases / f"phantom_000.{number}.part").symlink_to(tmp_path / "precious")
    preprocess(phantom_dataset, tmp_path / "out", PreprocessOptions(num_jobs=1, resume=True))
    assert (tmp_path / "precious").read_text() == "mine"
    assert {path.suffix for path in (tmp_path / "out" / "cases").iterdir()} == {".safetensors"}
