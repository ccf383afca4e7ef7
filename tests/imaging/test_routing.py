import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarecli.core.config import geometry
from rarecli.core.errors import DataError, UsageError
from rarecli.core.imaging import routing

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "routing_cases.json").read_text())

millimetres = st.floats(1e-6, 1e6)
spacings = st.tuples(millimetres, millimetres, millimetres)
depth_counts = st.integers(1, 8)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["why"])
def test_golden_case(case):
    way = routing.route(
        tuple(case["spacing_mm"]), tuple(GOLDEN["trained_spacing_mm"]), range(GOLDEN["num_depths"]), routing.Closeness(GOLDEN["tolerance"])
    )
    assert way.depth == case["depth"]
    assert way.grid_spacing_mm == tuple(case["grid_spacing_mm"])
    assert way.resampled == tuple(case["resampled"])
    for zoom, resampled, spacing, grid in zip(way.zoom, case["resampled"], case["spacing_mm"], case["grid_spacing_mm"], strict=True):
        assert zoom == (pytest.approx(spacing / grid) if resampled else 1)


def test_the_golden_tolerance_is_the_default():
    assert GOLDEN["tolerance"] == routing.TOLERANCE
    assert len(GOLDEN["cases"]) >= 20


@pytest.mark.parametrize("case", GOLDEN["as_is_cases"], ids=lambda case: case["why"])
def test_what_lies_between_two_depths_enters_as_it_is_where_the_model_has_learned_it(case):
    trained, depths = tuple(GOLDEN["trained_spacing_mm"]), range(GOLDEN["num_depths"])
    way = routing.route(tuple(case["spacing_mm"]), trained, depths, routing.Closeness(as_is_octaves=GOLDEN["as_is_octaves"]))
    assert (way.depth, list(way.resampled)) == (case["depth"], case["resampled"])


@given(spacings, spacings, depth_counts)
def test_total_and_never_a_depth_outside(spacing, trained, num_depths):
    way = routing.route(spacing, trained, range(num_depths))
    assert 0 <= way.depth < num_depths
    assert all(math.isfinite(zoom) and zoom > 0 for zoom in way.zoom)
    assert way == routing.route(spacing, trained, range(num_depths))


@given(spacings, spacings, st.tuples(*[st.floats(1, 100)] * 3), depth_counts)
def test_a_coarser_scan_never_enters_less_deep(spacing, trained, factors, num_depths):
    coarser = tuple(s * f for s, f in zip(spacing, factors, strict=True))
    assert routing.route(coarser, trained, range(num_depths)).depth >= routing.route(spacing, trained, range(num_depths)).depth


@given(spacings, spacings, st.integers(-10, 10), depth_counts)
def test_blind_to_the_unit(spacing, trained, power, num_depths):
    scaled = [tuple(s * 2.0**power for s in triple) for triple in (spacing, trained)]
    assert routing.route(*scaled, range(num_depths)).depth == routing.route(spacing, trained, range(num_depths)).depth


@given(spacings, st.integers(0, 7))
def test_the_grid_of_a_depth_routes_to_that_depth_untouched(trained, depth):
    way = routing.route(geometry.grid_spacing(trained, depth), trained, range(8))
    assert (way.depth, way.zoom) == (depth, (1, 1, 1))


def test_a_forced_depth_is_taken_and_said():
    way = routing.route((1, 1, 1), (1, 1, 1), range(4), depth=2)
    assert (way.depth, way.grid_spacing_mm, way.zoom) == (2, (4, 4, 4), (0.25, 0.25, 0.25))
    assert "requested with --depth" in way.reason


def test_the_reason_names_spacing_grid_and_resampled_axes():
    assert routing.route((2, 2, 6), (1, 1, 2), range(4)).reason == "spacing 2 x 2 x 6 mm, grid 2 x 2 x 4 mm; resampled along z"
    assert "deepest" in routing.route((64, 64, 64), (1, 1, 1), range(4)).reason
    assert "finest" in routing.route((0.1, 0.1, 0.1), (1, 1, 1), range(4)).reason


@pytest.mark.parametrize("depth", [-1, 4])
def test_a_depth_the_model_lacks_is_refused(depth):
    with pytest.raises(UsageError, match="0, 1, 2, 3"):
        routing.route((1, 1, 1), (1, 1, 1), range(4), depth=depth)


@pytest.mark.parametrize(
    ("depths", "taken"),
    [((0, 1), (0, 1, 1, 1)), ((1, 2), (1, 1, 2, 2)), ((0, 3), (0, 0, 3, 3)), ((2,), (2, 2, 2, 2)), ((1, 3), (1, 1, 1, 3))],
)
def test_where_some_depths_are_not_there_the_nearest_is_taken_and_of_two_the_finer(depths, taken):
    assert tuple(routing.route((s, s, s), (1, 1, 1), depths).depth for s in (1, 2, 4, 8)) == taken
    with pytest.raises(UsageError, match="no such depth"):
        routing.route((1, 1, 1), (1, 1, 1), depths, depth=4)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_spacing_that_is_none_is_refused(bad):
    with pytest.raises(DataError, match="finite and positive"):
        routing.route((1, bad, 1), (1, 1, 1), range(4))


def test_divisor_and_least_axis():
    assert [geometry.divisor(4, depth) for depth in range(4)] == [16, 8, 4, 2]
    assert [geometry.min_axis(4, depth) for depth in range(4)] == [32, 16, 8, 4]


def test_engine_shape_by_hand():
    assert geometry.engine_shape((16, 32, 16), 4, 1) == (16, 32, 16)
    assert geometry.engine_shape((17, 33, 1), 4, 1) == (24, 40, 16)
    assert geometry.engine_shape((1, 1, 1), 4, 3) == (4, 4, 4)


@given(st.tuples(*[st.integers(1, 300)] * 3), st.integers(1, 6), st.data())
def test_engine_shape_is_the_least_valid_one(shape, num_levels, data):
    depth = data.draw(st.integers(0, num_levels - 1))
    step = 2 ** (num_levels - depth)
    for size, enlarged in zip(shape, geometry.engine_shape(shape, num_levels, depth), strict=True):
        assert enlarged % step == 0
        assert enlarged >= max(size, 2 * step)
        assert enlarged - step < max(size, 2 * step)


@given(spacings, st.integers(1, 8))
def test_the_thresholds_are_where_an_isotropic_scan_changes_depth(trained, num_depths):
    thresholds = routing.thresholds_mm(trained, num_depths)
    assert len(thresholds) == num_depths - 1
    for depth, change in enumerate(thresholds):
        below, above = (change * factor for factor in (1 - 1e-9, 1 + 1e-9))
        assert routing.route((below,) * 3, trained, range(num_depths)).depth == depth
        assert routing.route((above,) * 3, trained, range(num_depths)).depth == depth + 1


def test_a_forced_depth_is_brought_to_its_grid_even_by_a_model_that_takes_scans_as_they_are():
    """What `rare evaluate` calls upsampled must upsample."""
    free = routing.route((1.3, 1.3, 1.3), (1, 1, 1), range(4), routing.Closeness(as_is_octaves=0.5))
    forced = routing.route((1.3, 1.3, 1.3), (1, 1, 1), range(4), routing.Closeness(as_is_octaves=0.5), depth=0)
    assert (free.depth, free.resampled) == (0, (False, False, False))
    assert forced.zoom == (1.3, 1.3, 1.3)
