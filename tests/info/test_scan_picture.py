import matplotlib.image
import nibabel as nib
import numpy as np
import pytest

import rarecli
from rarecli import Phantom
from rarecli.core.errors import UsageError
from rarecli.core.imaging.volume import write_image, write_labels
from rarecli.core.info.info import info
from rarecli.core.reporting.plotting import label_colour


@pytest.fixture
def scan(tmp_path):
    volume, labels = Phantom(0).acquire(4.0)
    write_image(tmp_path / "scan.nii.gz", volume.data[0], volume)
    write_labels(tmp_path / "labels.nii.gz", labels.data[0], labels)
    return tmp_path / "scan.nii.gz"


def has_colour(picture, index):
    return (np.abs(matplotlib.image.imread(picture)[..., :3] - np.array(label_colour(index)) / 255) < 0.02).all(axis=-1).sum() > 1000


def test_a_scan_is_grey_and_labels_have_their_colours(scan, tmp_path):
    assert info(scan, picture=tmp_path / "scan.png")["picture"] == str(tmp_path / "scan.png")
    red, green, blue, _ = np.moveaxis(matplotlib.image.imread(tmp_path / "scan.png"), -1, 0)
    assert np.abs(red - blue).max() < 0.02
    assert np.abs(red - green).max() < 0.02
    info(scan.with_name("labels.nii.gz"), picture=tmp_path / "labels.png")
    assert has_colour(tmp_path / "labels.png", 1)
    assert has_colour(tmp_path / "labels.png", 2)


def test_a_label_has_the_colour_of_the_model_s_pictures_though_others_are_missing(scan, run, tmp_path):
    path = scan.with_name("labels.nii.gz")
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.where(np.asarray(image.dataobj) == 2, 2, 0).astype(np.uint8), image.affine), path)
    info(path, run, picture=tmp_path / "second.png")
    assert has_colour(tmp_path / "second.png", 2)
    assert not has_colour(tmp_path / "second.png", 1)


def test_labels_of_many_values_are_known_by_their_intent(tmp_path):
    values = np.zeros((30, 8, 8), np.uint8)
    values[2:28] = np.arange(1, 27)[:, None, None]
    image = nib.Nifti1Image(values, np.eye(4))
    nib.save(image, tmp_path / "scan.nii.gz")
    info(tmp_path / "scan.nii.gz", picture=tmp_path / "scan.png")
    assert not has_colour(tmp_path / "scan.png", 1)
    image.header.set_intent("label")
    nib.save(image, tmp_path / "labels.nii.gz")
    rarecli.info(tmp_path / "labels.nii.gz", picture=str(tmp_path / "labels.png"))
    assert has_colour(tmp_path / "labels.png", 1)


def test_only_new_pictures_of_scans_are_drawn(scan, tmp_path):
    with pytest.raises(UsageError, match="a picture is a PNG file"):
        info(scan, picture=tmp_path / "scan.jpg")
    with pytest.raises(UsageError, match="only a scan is drawn"):
        info(scan.parent, picture=tmp_path / "folder.png")
    (tmp_path / "taken.png").write_text("theirs")
    with pytest.raises(UsageError, match="the picture exists"):
        info(scan, picture=tmp_path / "taken.png")
    assert (tmp_path / "taken.png").read_text() == "theirs"


def test_a_scan_of_one_value_is_drawn(tmp_path):
    nib.save(nib.Nifti1Image(np.full((8, 8, 8), 3.5, np.float32), np.eye(4)), tmp_path / "flat.nii.gz")
    info(tmp_path / "flat.nii.gz", picture=tmp_path / "flat.png")
    assert (tmp_path / "flat.png").stat().st_size > 1000
