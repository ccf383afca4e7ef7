import pytest

from rarecli.core.config.geometry import isotropic
from rarecli.core.evaluation.curve import curve_facts, dice_curve
from rarecli.core.evaluation.resolutions import Resolution
from rarecli.core.evaluation.thick_slices import thick_slice_table

RESOLUTIONS = [Resolution(isotropic(depth), (mm, mm, mm)) for depth, mm in ((0, 1.0), (0, 1.4), (1, 1.5), (1, 2.0))]


def part(dice, restored, ceiling=None):
    found = {"num_cases": 3, "dice": dice, "restored": {"dice": restored}}
    return found | ({"ceiling": {"dice": ceiling}} if ceiling else {})


def tables(routed, upsampled):
    keys = [item.key for item in RESOLUTIONS]
    found = {"routed": {key: part(*values) for key, values in zip(keys, routed, strict=True)}}
    return found | ({"upsampled": {key: part(*values) for key, values in zip(keys[2:], upsampled, strict=True)}} if upsampled else {})


ROUTED = [(0.9, 0.9, 1.0), (0.8, 0.7, 0.95), (0.75, 0.72, 0.94), (0.7, 0.6, 0.8)]


def test_the_curve_and_its_facts_by_hand():
    points = dice_curve(tables(ROUTED, [(0.76, 0.7), (0.74, 0.58)]), RESOLUTIONS)
    assert [point["depth"] for point in points] == [0, 0, 1, 1]
    assert points[1] == {
        "spacing_mm": 1.4,
        "depth": 0,
        "num_cases": 3,
        "acquired": {"routed": 0.8, "upsampled": 0.8},
        "restored": {"routed": 0.7, "upsampled": 0.7, "ceiling": 0.95},
    }
    facts = curve_facts(points)
    assert facts["acquired"]["largest_deficit"] == {"dice": pytest.approx(0.04), "spacing_mm": 2.0}
    assert facts["restored"]["largest_deficit"]["dice"] == 0
    assert facts["acquired"]["largest_jump"] == {"dice": pytest.approx(0.05), "spacings_mm": [1.4, 1.5]}
    assert facts["restored"]["largest_jump"]["dice"] == pytest.approx(0.02)


def test_what_was_not_measured_is_null():
    points = dice_curve(tables(ROUTED, []), RESOLUTIONS)
    assert points[2]["acquired"]["upsampled"] is None
    facts = curve_facts(points[2:])
    assert facts["acquired"] == {"largest_deficit": None, "largest_jump": None}


def test_spacings_whose_axes_differ_have_a_table_and_no_curve():
    thick = Resolution((0, 0, 2), (1.0, 1.0, 4.0))
    per_method = {
        "routed": {"1": part(0.9, 0.9, 1.0), "1x1x4": part(0.8, 0.7, 0.9)},
        "upsampled": {"1x1x4": part(0.75, 0.6)},
    }
    resolutions = [Resolution((0, 0, 0), (1.0, 1.0, 1.0)), thick]
    assert [point["spacing_mm"] for point in dice_curve(per_method, resolutions)] == [1.0]
    assert thick_slice_table(per_method, resolutions, (1.0, 1.0, 1.0)) == [
        {
            "spacing_mm": [1.0, 1.0, 4.0],
            "slice_axis": "z",
            "entry": [0, 0, 2],
            "num_cases": 3,
            "acquired": {"routed": 0.8, "upsampled": 0.75},
            "restored": {"routed": 0.7, "upsampled": 0.6, "ceiling": 0.9},
        }
    ]


def test_slices_are_thick_by_the_trained_spacing():
    """Trained at 0.5 x 0.5 x 1 mm: 0.5 x 0.5 x 4 has slices of four times that, and 1 x 1 x 2 has the same depth along all axes."""
    thick = Resolution((0, 0, 2), (0.5, 0.5, 4.0))
    alike = Resolution((1, 1, 1), (1.0, 1.0, 2.0))
    per_method = {"routed": {item.key: part(0.8, 0.7, 0.9) for item in (thick, alike)}}
    [row] = thick_slice_table(per_method, [thick, alike], (0.5, 0.5, 1.0))
    assert (row["spacing_mm"], row["slice_axis"]) == ([0.5, 0.5, 4.0], "z")
