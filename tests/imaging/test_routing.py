import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarecli.core.config import geometry
from rarecli.core.config.geometry import entry_set, isotropic
from rarecli.core.errors import DataError, UsageError
from rarecli.core.imaging import routing

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "routing_cases.json").read_text())


def isotropic_entries(num_depths):
    return entry_set("isotropic", num_depths)


millimetres = st.floats(1e-6, 1e6)
spacings = st.tuples(millimetres, millimetres, millimetres)
depth_counts = st.integers(1, 8)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["why"])
def test_golden_case(case):
    way = routing.route(
        tuple(case["spacing_mm"]),
        tuple(GOLDEN["trained_spacing_mm"]),
        isotropic_entries(GOLDEN["num_depths"]),
        routing.Rule(tolerance=GOLDEN["tolerance"]),
    )
    assert way.entry == isotropic(case["depth"])
    assert way.grid_spacing_mm == tuple(case["grid_spacing_mm"])
    assert way.resampled == tuple(case["resampled"])
    for zoom, resampled, spacing, grid in zip(way.zoom, case["resampled"], case["spacing_mm"], case["grid_spacing_mm"], strict=True):
        assert zoom == (pytest.approx(spacing / grid) if resampled else 1)


def test_the_golden_tolerance_is_the_default():
    assert GOLDEN["tolerance"] == routing.TOLERANCE
    assert len(GOLDEN["cases"]) >= 20


@pytest.mark.parametrize("case", GOLDEN["as_is_cases"], ids=lambda case: case["why"])
def test_what_lies_between_two_depths_enters_as_it_is_where_the_model_has_learned_it(case):
    trained, depths = tuple(GOLDEN["trained_spacing_mm"]), isotropic_entries(GOLDEN["num_depths"])
    way = routing.route(tuple(case["spacing_mm"]), trained, depths, routing.Rule(as_is_octaves=GOLDEN["as_is_octaves"]))
    assert (way.entry, list(way.resampled)) == (isotropic(case["depth"]), case["resampled"])


@given(spacings, spacings, depth_counts)
def test_total_and_never_a_depth_outside(spacing, trained, num_depths):
    way = routing.route(spacing, trained, isotropic_entries(num_depths))
    assert 0 <= way.entry[0] < num_depths
    assert all(math.isfinite(zoom) and zoom > 0 for zoom in way.zoom)
    assert way == routing.route(spacing, trained, isotropic_entries(num_depths))


@given(spacings, spacings, st.tuples(*[st.floats(1, 100)] * 3), depth_counts)
def test_a_coarser_scan_never_enters_less_deep(spacing, trained, factors, num_depths):
    coarser = tuple(s * f for s, f in zip(spacing, factors, strict=True))
    assert (
        routing.route(coarser, trained, isotropic_entries(num_depths)).entry
        >= routing.route(spacing, trained, isotropic_entries(num_depths)).entry
    )


@given(spacings, spacings, st.integers(-10, 10), depth_counts)
def test_blind_to_the_unit(spacing, trained, power, num_depths):
    scaled = [tuple(s * 2.0**power for s in triple) for triple in (spacing, trained)]
    assert (
        routing.route(*scaled, isotropic_entries(num_depths)).entry == routing.route(spacing, trained, isotropic_entries(num_depths)).entry
    )


@given(spacings, st.integers(0, 7))
def test_the_grid_of_a_depth_routes_to_that_depth_untouched(trained, depth):
    way = routing.route(geometry.grid_spacing(trained, isotropic(depth)), trained, isotropic_entries(8))
    assert (way.entry, way.zoom) == (isotropic(depth), (1, 1, 1))


def test_a_forced_depth_is_taken_and_said():
    way = routing.route((1, 1, 1), (1, 1, 1), isotropic_entries(4), entry=(2, 2, 2))
    assert (way.entry, way.grid_spacing_mm, way.zoom) == ((2, 2, 2), (4, 4, 4), (0.25, 0.25, 0.25))
    assert "requested with --depth" in way.reason


def test_the_reason_names_spacing_grid_and_resampled_axes():
    assert routing.route((2, 2, 6), (1, 1, 2), isotropic_entries(4)).reason == "spacing 2 x 2 x 6 mm, grid 2 x 2 x 4 mm; resampled along z"
    assert "deepest" in routing.route((64, 64, 64), (1, 1, 1), isotropic_entries(4)).reason
    assert "finest" in routing.route((0.1, 0.1, 0.1), (1, 1, 1), isotropic_entries(4)).reason


@pytest.mark.parametrize("depth", [-1, 4])
def test_a_depth_the_model_lacks_is_refused(depth):
    with pytest.raises(UsageError, match="depth 0; depth 1; depth 2; depth 3"):
        routing.route((1, 1, 1), (1, 1, 1), isotropic_entries(4), entry=isotropic(depth))


@pytest.mark.parametrize(
    ("depths", "taken"),
    [((0, 1), (0, 1, 1, 1)), ((1, 2), (1, 1, 2, 2)), ((0, 3), (0, 0, 3, 3)), ((2,), (2, 2, 2, 2)), ((1, 3), (1, 1, 1, 3))],
)
def test_where_some_depths_are_not_there_the_nearest_is_taken_and_of_two_the_finer(depths, taken):
    entries = [isotropic(depth) for depth in depths]
    assert tuple(routing.route((s, s, s), (1, 1, 1), entries).entry[0] for s in (1, 2, 4, 8)) == taken
    with pytest.raises(UsageError, match="no such entry"):
        routing.route((1, 1, 1), (1, 1, 1), entries, entry=(4, 4, 4))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_spacing_that_is_none_is_refused(bad):
    with pytest.raises(DataError, match="finite and positive"):
        routing.route((1, bad, 1), (1, 1, 1), isotropic_entries(4))


def test_divisors_and_least_shape():
    assert [geometry.divisors(4, isotropic(depth))[0] for depth in range(4)] == [16, 8, 4, 2]
    assert [geometry.min_shape(4, isotropic(depth), any_size=False)[0] for depth in range(4)] == [32, 16, 8, 4]
    assert geometry.divisors(4, (0, 1, 3)) == (16, 8, 2)
    assert geometry.min_shape(4, (0, 1, 3), any_size=False) == (32, 16, 4)
    # 17 voxels are halved to 9, 5, 3, 2; 9 to 5, 3, 2; 3 to 2
    assert geometry.min_shape(4, (0, 1, 3), any_size=True) == (17, 9, 3)


def test_enlarged_by_hand():
    assert geometry.enlarged((16, 32, 16), (8, 8, 8), (16, 16, 16)) == (16, 32, 16)
    assert geometry.enlarged((17, 33, 1), (8, 8, 8), (16, 16, 16)) == (24, 40, 16)
    assert geometry.enlarged((17, 33, 1), (1, 1, 1), (9, 9, 3)) == (17, 33, 3)


@given(st.tuples(*[st.integers(1, 300)] * 3), st.integers(1, 6), st.data())
def test_enlarged_is_the_least_valid_shape(shape, num_levels, data):
    entry = data.draw(st.tuples(*[st.integers(0, num_levels - 1)] * 3))
    steps, least = geometry.divisors(num_levels, entry), geometry.min_shape(num_levels, entry, any_size=False)
    for size, enlarged, step in zip(shape, geometry.enlarged(shape, steps, least), steps, strict=True):
        assert enlarged % step == 0
        assert enlarged >= max(size, 2 * step)
        assert enlarged - step < max(size, 2 * step)


def test_sets_of_entries():
    assert entry_set("isotropic", 3) == ((0, 0, 0), (1, 1, 1), (2, 2, 2))
    # 4 isotropic ones, and for each of 3 axes the 6 pairs of a depth in the plane and a deeper one
    assert len(entry_set("thick", 4)) == 22
    assert {(0, 0, 3), (1, 2, 1), (3, 0, 0)} < set(entry_set("thick", 4))
    assert not {(0, 1, 2), (0, 1, 1)} & set(entry_set("thick", 4))
    assert len(set(entry_set("all", 4))) == 64


def nearest(spacing, trained, entries, as_is_octaves=0.6):
    return routing.route(
        tuple(spacing), tuple(trained), [tuple(entry) for entry in entries], routing.Rule("nearest", as_is_octaves=as_is_octaves)
    )


@pytest.mark.parametrize("case", GOLDEN["nearest"]["cases"] + GOLDEN["nearest"]["other_entries"], ids=lambda case: case["why"])
def test_golden_case_of_the_nearest_entry(case):
    entries = case.get("entries", GOLDEN["nearest"]["entries"])
    way = nearest(case["spacing_mm"], GOLDEN["trained_spacing_mm"], entries, GOLDEN["nearest"]["as_is_octaves"])
    assert (list(way.entry), list(way.resampled)) == (case["entry"], case["resampled"])


def test_the_golden_entries_are_the_thick_ones():
    assert [tuple(entry) for entry in GOLDEN["nearest"]["entries"]] == list(entry_set("thick", 4))


@given(spacings, spacings, depth_counts)
def test_every_axis_enters_where_it_belongs_if_every_entry_is_there(spacing, trained, num_depths):
    alone = [routing.route((s, s, s), (t, t, t), isotropic_entries(num_depths)).entry[0] for s, t in zip(spacing, trained, strict=True)]
    assert nearest(spacing, trained, entry_set("all", num_depths)).entry == tuple(alone)


@given(st.floats(1e-3, 1e3), spacings, depth_counts, st.sampled_from(["isotropic", "thick", "all"]))
def test_a_scan_coarser_by_one_factor_is_routed_alike_by_both_rules(factor, trained, num_depths, kind):
    spacing = tuple(factor * t for t in trained)
    expected = routing.route(spacing, trained, entry_set(kind, num_depths)).entry
    found = nearest(spacing, trained, entry_set(kind, num_depths)).entry
    wanted = routing.wanted_depths(spacing, trained)
    assert found == expected or len(set(wanted)) > 1  # at the edge, the last bits of the three ratios differ


@given(spacings, spacings, st.tuples(*[st.floats(1, 100)] * 3), st.integers(1, 4), st.sampled_from(["isotropic", "thick", "all"]))
def test_a_coarser_scan_never_enters_with_a_smaller_total_depth(spacing, trained, factors, num_depths, kind):
    coarser = tuple(s * f for s, f in zip(spacing, factors, strict=True))
    entries = entry_set(kind, num_depths)
    assert sum(nearest(coarser, trained, entries).entry) >= sum(nearest(spacing, trained, entries).entry)


@given(spacings, spacings, st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12, unique=True))
def test_no_axis_enters_coarser_than_it_is_unless_every_entry_does(spacing, trained, entries):
    way = nearest(spacing, trained, entries)
    least = [min(axis) for axis in zip(*entries, strict=True)]
    wanted = [max(depth, most) for depth, most in zip(routing.wanted_depths(spacing, trained), least, strict=True)]
    fitting = [entry for entry in entries if all(a <= b for a, b in zip(entry, wanted, strict=True))]
    assert way.entry in (fitting or entries)
    assert way == nearest(spacing, trained, entries[::-1])


def test_the_reason_names_what_the_model_lacks():
    thick = entry_set("thick", 4)
    assert nearest((1, 1, 4), (1, 1, 1), thick).reason == "spacing 1 x 1 x 4 mm, grid 1 x 1 x 4 mm"
    assert "nearest entry to 0,1,2, which the model does not have" in nearest((1, 2, 4), (1, 1, 1), thick).reason
    assert "beyond" in nearest((1, 1, 99), (1, 1, 1), thick).reason


@given(spacings, st.integers(1, 8))
def test_the_thresholds_are_where_an_isotropic_scan_changes_depth(trained, num_depths):
    thresholds = routing.thresholds_mm(trained, num_depths)
    assert len(thresholds) == num_depths - 1
    for depth, change in enumerate(thresholds):
        below, above = (change * factor for factor in (1 - 1e-9, 1 + 1e-9))
        assert routing.route((below,) * 3, trained, isotropic_entries(num_depths)).entry == isotropic(depth)
        assert routing.route((above,) * 3, trained, isotropic_entries(num_depths)).entry == isotropic(depth + 1)


def test_a_forced_depth_is_brought_to_its_grid_even_by_a_model_that_takes_scans_as_they_are():
    """What `rare evaluate` calls upsampled must upsample."""
    free = routing.route((1.3, 1.3, 1.3), (1, 1, 1), isotropic_entries(4), routing.Rule(as_is_octaves=0.5))
    forced = routing.route((1.3, 1.3, 1.3), (1, 1, 1), isotropic_entries(4), routing.Rule(as_is_octaves=0.5), entry=(0, 0, 0))
    assert (free.entry, free.resampled) == ((0, 0, 0), (False, False, False))
    assert forced.zoom == (1.3, 1.3, 1.3)
