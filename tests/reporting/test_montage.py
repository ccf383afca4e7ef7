"""The picture is read again as pixels: what is where, and how long, must agree with the millimetres of the phantom."""

import matplotlib.image
import numpy as np
import pytest

from rarecli.core.reporting.montage import Montage, bar_mm, draw_montage
from rarecli.core.reporting.plotting import label_colour

ABOVE_THE_LEGEND = 40
"""Pixels below the planes with one line of keys."""


def box_of(pixels, colour):
    """Pixels (row, column) from the first to beyond the last of a colour, per panel: groups of columns that touch."""
    mask = (np.abs(pixels[:-ABOVE_THE_LEGEND, :, :3] - np.array(colour) / 255) < 0.02).all(axis=-1)
    columns = np.flatnonzero(mask.any(axis=0))
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    found = []
    for group in groups:
        rows = np.flatnonzero(mask[:, group].any(axis=1))
        found.append((rows[0], rows[-1] + 1, group[0], group[-1] + 1))
    return found


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A box of 20 x 60 x 48 mm, with a smaller one at its right, front and top; voxels of 1 x 2 x 4 mm."""
    labels = np.zeros((60, 50, 20), np.uint8)
    labels[10:30, 5:35, 3:15] = 7
    labels[30:35, 30:35, 12:15] = 3
    path = tmp_path_factory.mktemp("montage") / "case.png"
    draw_montage(Montage("a case", labels, [(3, "small"), (7, "large")], (1.0, 2.0, 4.0), None), path)
    return matplotlib.image.imread(path)


def test_a_millimetre_is_equally_long_along_every_axis_and_in_every_plane(drawn):
    boxes = box_of(drawn, label_colour(2))
    sizes = [(columns_to - columns_from, rows_to - rows_from) for rows_from, rows_to, columns_from, columns_to in boxes]
    expected_mm = [(60, 48), (20, 48), (20, 60)]  # y and z, x and z, x and y
    scales = [pixels / mm for size, size_mm in zip(sizes, expected_mm, strict=True) for pixels, mm in zip(size, size_mm, strict=True)]
    assert max(scales) / min(scales) < 1.06, scales  # a pixel at either end
    assert min(scales) > 2


def test_right_is_right_and_up_is_superior_or_anterior(tmp_path):
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[10:20, 10:20, 10:20] = 1
    labels[20:28, 10:20, 10:20] = 2  # to the patient's right of it
    draw_montage(Montage("", labels, [(1, ""), (2, "")], (1.0, 1.0, 1.0), None), tmp_path / "right.png")
    pixels = matplotlib.image.imread(tmp_path / "right.png")
    ones, twos = (box_of(pixels, label_colour(index)) for index in (1, 2))
    assert (len(ones), len(twos)) == (3, 2)  # the sagittal plane goes through the largest label only
    for one, two in zip(ones[1:], twos, strict=True):
        assert abs(two[2] - one[3]) <= 2  # it begins where the first one ends
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[10:20, 10:20, 10:20] = 1
    labels[10:20, 20:28, 10:20] = 2  # in front of it
    draw_montage(Montage("", labels, [(1, ""), (2, "")], (1.0, 1.0, 1.0), None), tmp_path / "front.png")
    pixels = matplotlib.image.imread(tmp_path / "front.png")
    (sagittal, _, axial), (in_front, above) = (box_of(pixels, label_colour(index)) for index in (1, 2))
    assert abs(in_front[2] - sagittal[3]) <= 2
    assert abs(above[1] - axial[0]) <= 2


def test_the_bar_is_as_long_as_it_says(drawn):
    white = (drawn[..., :3] > 0.98).all(axis=-1)
    box = box_of(drawn, label_colour(2))[2]
    pixels_per_mm = (box[3] - box[2]) / 20
    # the axial plane is 60 x 100 mm: the bar is 20 mm; the longest white line inside that plane
    inside = white[:, box[2] - int(9 * pixels_per_mm) : box[3] + int(28 * pixels_per_mm)]
    inside = inside[box[0] - int(25 * pixels_per_mm) : box[1] + int(9.5 * pixels_per_mm)]
    longest = max(len(run) for row in inside for run in "".join("x" if one else " " for one in row).split())
    assert longest / pixels_per_mm == pytest.approx(20, rel=0.06)


@pytest.mark.parametrize(
    ("narrowest_mm", "bar"), [(30, 10), (59, 10), (60, 20), (150, 50), (3.1, 1), (1.6, 0.5), (700, 200), (0.3, 0.1), (0.03, 0.01)]
)
def test_the_bar_is_a_round_number_and_at_most_a_third(narrowest_mm, bar):
    assert bar_mm(narrowest_mm) == pytest.approx(bar)


def test_long_names_and_many_keys_stay_inside(tmp_path):
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[:, :, :] = np.arange(40)[:, None, None]
    keys = [(value, f"$left$ hippocampus tail {value}, of a name that is long: 123 mL") for value in range(1, 40)]
    draw_montage(Montage("x" * 300, labels, keys, (1.0, 1.0, 1.0), None), tmp_path / "case.png")
    pixels = matplotlib.image.imread(tmp_path / "case.png")[..., :3]
    for edge in (pixels[:, :3], pixels[:, -3:], pixels[:3], pixels[-3:]):
        assert (edge == 1).all()  # white: nothing is cut


def test_the_scan_is_seen_through_the_labels(tmp_path):
    image = np.zeros((30, 30, 30))
    image[:15] = 1
    labels = np.ones((30, 30, 30), np.uint8)
    draw_montage(Montage("", labels, [(1, "all")], (1.0, 1.0, 1.0), image), tmp_path / "case.png")
    colours = np.unique(matplotlib.image.imread(tmp_path / "case.png")[200, :, :3].round(2), axis=0)
    blue = np.array(label_colour(1)) / 255
    for grey in (0, 1):
        assert np.abs(colours - (0.45 * blue + 0.55 * grey)).sum(axis=1).min() < 0.03
