"""Puts the frames of a series in order along their normal, and refuses what is not one evenly spaced stack.

Nothing but the position in space decides: not the instance number, the name of a file, or the spacing that a header states.
Decision: docs/decisions/0021-formats.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rarecli.core.errors import DataError
from rarecli.core.imaging.formats.dicom_frames import TELLS, TIMES, Frame
from rarecli.core.types import FloatArray, Shape

_MOST_OF_A_STEP = 0.05
"""A step between slices may differ from their mean by this share of it."""
_ROUNDING_MM = 0.1
"""Scanners round positions to a tenth of a mm along each axis: a slice may lie so far from the line that fits all of them best."""
_LEAST_DRIFT = 0.1
"""A stack that drifts sideways by less than this share of a pixel, over all slices, is straight."""
_MOST_TILT = 45.0
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Stack:
    """The frames of one volume in order along their normal.

    drift: by how many pixels (along a row, down a column) each slice lies beside the one before; (0, 0) without a gantry tilt.
    doubles: pairs of frames at one place that must have the same pixels; the second of each is left out of `frames`.
    """

    frames: tuple[Frame, ...]
    step_mm: float
    drift: tuple[float, float]
    doubles: tuple[tuple[Frame, Frame], ...]
    notes: tuple[str, ...]

    @property
    def shift(self) -> tuple[int, int]:
        """The first pixel of the straight grid, (along a row, down a column), in pixels of the first slice."""
        x, y = (min(0, math.floor(self._last(drift))) for drift in self.drift)
        return x, y

    @property
    def shape(self) -> Shape:
        """(X, Y, Z) of the straight grid: that of the slices, and wider where they are tilted."""
        x, y = (size + math.ceil(abs(self._last(drift))) for size, drift in zip(self.frames[0].shape, self.drift, strict=True))
        return x, y, len(self.frames)

    @property
    def affine(self) -> FloatArray:
        """Voxel index on the straight grid -> mm in RAS+. X runs along the rows, Y down the columns, Z along the normal."""
        first = self.frames[0]
        axes = np.stack([first.row * first.spacing[0], first.column * first.spacing[1], first.normal * self.step_mm], axis=1)
        affine = np.eye(4)
        affine[:3, :3] = axes
        affine[:3, 3] = first.position + axes[:, :2] @ self.shift
        return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)

    def _last(self, drift: float) -> float:
        return drift * (len(self.frames) - 1)


def stack_of(frames: Sequence[Frame]) -> Stack:
    """Return the frames of a series as one stack. Raises DataError for frames that are not one evenly spaced volume."""
    notes = []
    images = [frame for frame in frames if not frame.is_localizer]
    if not images:
        raise DataError("the series holds only localizers", field="ImageType", found=f"{len(frames)} localizers", expected="a volume")
    if len(images) < len(frames):
        notes.append(f"left out {_count(len(frames) - len(images), 'localizer')} of {_count(len(frames), 'image')} of the series")
    if any(frame.instance.header.get("PhotometricInterpretation") == "MONOCHROME1" for frame in images):
        notes.append("the images are MONOCHROME1: their low values are the bright ones")
    _require_alike(images)
    _require_one_orientation(images)
    kept, doubles = _one_per_place(images)
    if len(images) > len(kept):
        notes.append(f"left out {_count(len(images) - len(kept), 'image')} that occurred twice")
    if len(kept) == 1:
        step = kept[0].thickness
        if step is None:
            found, remedy = "one slice without a thickness", "give the other slices"
            raise DataError("the spacing is unknown", field="SliceThickness", found=found, expected="two slices or more", remedy=remedy)
        return Stack(
            tuple(kept), step, (0.0, 0.0), doubles, (*notes, f"the series has one slice; its thickness, {step:g} mm, is its spacing")
        )
    step, drift, tilt = _steps(kept)
    stack = Stack(tuple(kept), step, drift, doubles, ())
    if tilt:
        was, now = (" x ".join(map(str, shape)) for shape in ((*kept[0].shape, len(kept)), stack.shape))
        notes.append(f"gantry tilt of {tilt:.1f} degrees: resampled from {was} to a straight grid of {now} voxels")
    return Stack(tuple(kept), step, drift, doubles, tuple(notes))


def _require_alike(frames: Sequence[Frame]) -> None:
    frames_of_reference = [str(frame.instance.header.get("FrameOfReferenceUID", "")) for frame in frames]
    spacings = [tuple(round(value, 5) for value in frame.spacing) for frame in frames]
    for field, values in (
        ("Columns, Rows", [frame.shape for frame in frames]),
        ("PixelSpacing", spacings),
        ("FrameOfReferenceUID", frames_of_reference),
    ):
        if len(counts := Counter(values)) > 1:
            found = ", ".join(f"{num} images of {_plain(value)}" for value, num in counts.most_common(4))
            raise DataError("the images of the series differ", field=field, found=found, expected="one", remedy="export one volume")


def _require_one_orientation(frames: Sequence[Frame]) -> None:
    first = frames[0]
    same = [max(np.abs(frame.row - first.row).max(), np.abs(frame.column - first.column).max()) < 1e-3 for frame in frames]
    if not all(same):
        planes = Counter(_plane(frame) for frame in frames)
        raise DataError(
            "the series mixes orientations",
            field="ImageOrientationPatient",
            found=", ".join(f"{_count(num, 'image')} {plane}" for plane, num in planes.most_common())
            + ("" if len(planes) > 1 else ", at different angles"),
            expected="one orientation",
            remedy="export the volume without localizers and other planes",
        )


def _one_per_place(frames: Sequence[Frame]) -> tuple[list[Frame], tuple[tuple[Frame, Frame], ...]]:
    """Return one frame per place, in order along the normal, and the pairs that must be equal. Raises DataError for different ones."""
    normal, near = frames[0].normal, 1e-2 * min(1.0, *frames[0].spacing)
    ordered = sorted(frames, key=lambda frame: (float(frame.position @ normal), frame.key))
    places: list[list[Frame]] = []
    for frame in ordered:
        if places and float((frame.position - places[-1][0].position) @ normal) < near:
            places[-1].append(frame)
        else:
            places.append([frame])
    several = [place for place in places if len(place) > 1]
    for place in several:
        if np.abs(place[0].position - place[-1].position).max() > near:
            raise DataError("several images lie side by side in one plane", field="ImagePositionPatient", expected="one image per slice")
        for name, meaning in TELLS:
            if name in TIMES and len(several) < len(places):
                continue  # a slice that was sent twice; its pixels decide
            if len(values := {frame.tells.get(name, "none") for frame in place}) > 1:
                raise DataError(
                    f"{meaning} in one series",
                    field=name,
                    found=f"{len(values)} values at one position, in {len(several)} of {len(places)} positions" + _physics(name, values),
                    expected="one image per position",
                    remedy="export one of them as a series of its own",
                )
    return [place[0] for place in places], tuple((place[0], other) for place in several for other in place[1:])


def _steps(frames: Sequence[Frame]) -> tuple[float, tuple[float, float], float]:
    """Return the distance of slices in mm, the drift in pixels and the tilt in degrees (0 if straight)."""
    first = frames[0]
    places = np.array([frame.position for frame in frames]) - first.position
    along = places @ first.normal
    steps = np.diff(along)
    step = float(along[-1] / (len(frames) - 1))
    if not ((np.abs(steps - step) <= _MOST_OF_A_STEP * step).all() or _off_line(along).max() <= min(_ROUNDING_MM, step / 5)):
        _refuse_gaps(steps)
    sideways = np.stack([places @ first.row / first.spacing[0], places @ first.column / first.spacing[1]], axis=1)
    drift = sideways[-1] / (len(frames) - 1)
    rounding = _ROUNDING_MM / np.array(first.spacing)
    if (_off_line(sideways) > np.maximum(_LEAST_DRIFT, rounding)).any():
        raise DataError("the slices do not lie on a line", field="ImagePositionPatient", expected="one stack", remedy="export one volume")
    if (np.abs(sideways[-1]) <= np.maximum(_LEAST_DRIFT, 2 * rounding)).all():  # of the first and of the last slice
        return step, (0.0, 0.0), 0.0
    tilt = math.degrees(math.atan2(float(np.hypot(*(drift * first.spacing))), step))
    if tilt > _MOST_TILT:
        found = f"{tilt:.0f} degrees to the normal"
        raise DataError("the slices advance sideways", field="ImagePositionPatient", found=found, expected=f"at most {_MOST_TILT:g}")
    return step, (float(drift[0]), float(drift[1])), tilt


def _off_line(values: FloatArray) -> FloatArray:
    """Return how far values (slices, ...) lie from the straight line over the number of the slice that fits them best."""
    numbers = np.arange(len(values)) - (len(values) - 1) / 2
    centred = values - values.mean(axis=0)
    slope = np.tensordot(numbers, centred, 1) / (numbers @ numbers)
    return np.asarray(np.abs(centred - np.multiply.outer(numbers, slope)))


def _refuse_gaps(steps: FloatArray) -> None:
    """Raise DataError for a missing slice, if all gaps are multiples of the usual step, otherwise for uneven slices."""
    least = float(steps.min())
    multiples = np.rint(steps / least)
    missing = int((multiples - 1).sum())
    is_missing = missing > 0 and bool((np.abs(steps - multiples * least) <= _MOST_OF_A_STEP * least).all())
    usual = least if is_missing else float(np.median(steps))
    worst = int(np.argmax(np.abs(steps - usual)))
    raise DataError(
        ("a slice is missing" if missing == 1 else f"{missing} slices are missing") if is_missing else "the slices are not evenly spaced",
        field="ImagePositionPatient",
        found=f"{steps[worst]:.4g} mm between slices {worst + 1} and {worst + 2} of {len(steps) + 1}",
        expected=f"{usual:.4g} mm between all slices",
        remedy="export or send the complete series again" if is_missing else "give a series with even gaps",
    )


def _plane(frame: Frame) -> str:
    return _PLANES[int(np.argmax(np.abs(frame.normal)))]


def _physics(name: str, values: set[str]) -> str:
    """Return values that say nothing of the patient: times of the day and kinds of image are left out."""
    return (
        f": {', '.join(sorted(values)[:6])}" if name in {"EchoTime", "EchoNumbers", "DiffusionBValue", "FlipAngle", "InversionTime"} else ""
    )


def _plain(value: object) -> str:
    return " x ".join(f"{item:g}" for item in value) if isinstance(value, tuple) else "another frame"


def _count(num: int, noun: str) -> str:
    return f"{num} {noun}" + ("" if num == 1 else "s")
