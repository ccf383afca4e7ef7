import math
import re
import xml.etree.ElementTree as ET

import pytest

from rarecli.core.reporting.axes import Axis
from rarecli.core.reporting.charts import HeatMap, Line, heat_map, line_chart, strip_plot
from rarecli.core.reporting.figure import shortened


def drawn(figure):
    root = ET.fromstring(figure.svg)
    assert root.get("role") == "img"
    named = root.get("aria-labelledby").split()
    assert [root.find(f"*[@id='{name}']").text for name in named] == [figure.title, figure.description]
    return root


def marks(root):
    """Returns the tip and the centre of every marker."""
    found = []
    for path in root.iter("path"):
        if path.get("class") == "mark" and path.find("title") is not None:
            numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d"))]
            found.append((path.find("title").text, numbers[0] + 3.6, numbers[1]))
    return found


def test_markers_lie_where_their_values_do():
    figure = line_chart("t", "d", [Line("a", [0, 1, 2], [0.0, 0.5, 1.0])], Axis("x", limits=(0, 2)), Axis("y", limits=(0, 1)))
    # circles start at their left end, in the middle of their height
    (_, x0, y0), (_, x1, y1), (_, x2, y2) = marks(drawn(figure))
    assert (x0, x1, x2) == pytest.approx((52, 249, 446), abs=0.1)
    assert (y0, y1, y2) == pytest.approx((266, 139, 12), abs=0.1)


def test_values_that_are_missing_or_not_finite_are_left_out():
    line = Line("a", [0, 1, 2, 3], [0.1, None, math.nan, 0.4], ["one", "", "", "four"])
    assert [tip for tip, _, _ in marks(drawn(line_chart("t", "d", [line], Axis("x"), Axis("y"))))] == ["a: one", "a: four"]
    drawn(line_chart("t", "d", [Line("a", [1], [0.0])], Axis("x", log=True), Axis("y", log=True)))


@pytest.mark.parametrize(
    ("axis", "values", "expected"),
    [
        (Axis("x", limits=(0, 1)), [0.3], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Axis("x", log=True), [1, 1000], [1, 10, 100, 1000]),
        (Axis("x", log=True), [2.0, 9.0], [2, 5]),
        (Axis("x"), [5, 5], [4.8, 4.9, 5, 5.1, 5.2]),
    ],
)
def test_ticks_are_round_numbers_within_the_values(axis, values, expected):
    found = [value for value, _ in axis.fitted(values).ticks]
    if expected == [2, 5]:  # a range below a decade has at least three
        assert len(found) >= 3
        assert set(expected) <= set(found)
    else:
        assert found == pytest.approx(expected)


def test_a_logarithmic_axis_halves_at_the_geometric_mean():
    assert Axis("x", log=True, limits=(1, 100)).place(10) == pytest.approx(0.5)
    assert Axis("x", limits=(0, 2)).place(5) == 1


def test_a_strip_has_a_mark_for_each_value_and_keeps_hostile_names_as_text():
    figure = strip_plot("t", "d", [("<b>bad</b>", [0.5, None]), ("good", [0.7, 0.9])], Axis("Dice"), ["full", "1/2"])
    assert [tip for tip, _, _ in marks(drawn(figure))] == ["<b>bad</b>, full: 0.5", "good, full: 0.7", "good, 1/2: 0.9"]
    assert [key.name for key in figure.legend] == ["full", "1/2"]


def test_a_heat_map_writes_its_values_in_ink_that_can_be_read():
    content = HeatMap("t", "d", ["1, z"], ["2", "3", "4"], [[0.3, None, 1.0]], "slices", "plane")
    root = drawn(heat_map(content))
    inks = {group.find("text").text: group.get("fill") for group in root.iter("g") if group.get("class") == "value"}
    assert inks == {"0.30": "#fff", "1.00": "#000"}
    assert [box.get("fill") for box in root.iter("rect")] == ["rgb(68,1,84)", "rgb(253,231,37)"]  # the ends of viridis


def test_a_long_name_keeps_its_ends():
    assert shortened("hippocampus_001", 18) == "hippocampus_001"
    assert shortened("sub-0001_ses-02_acq-highres_T1w", 18) == "sub-0001_…hres_T1w"
