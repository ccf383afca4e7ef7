"""The frames of DICOM images: where each lies, how its values are scaled, and what tells it from others at its place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rarecli.core.errors import DataError
from rarecli.core.imaging.formats.dicom_files import Instance, pydicom, reading
from rarecli.core.types import FloatArray

# what may differ between images of one place: (attribute, its meaning); the most telling first
TELLS = (
    ("EchoTime", "several echoes"),
    ("EchoNumbers", "several echoes"),
    ("TemporalPositionIdentifier", "a series over time (cine)"),
    ("TriggerTime", "a series over time (cine)"),
    ("DiffusionBValue", "several diffusion weightings"),
    ("InversionTime", "several inversion times"),
    ("FlipAngle", "several flip angles"),
    ("ImageType", "several kinds of image, e.g. magnitude and phase"),
    ("AcquisitionNumber", "several acquisitions"),
    ("AcquisitionTime", "a series over time (cine)"),
    ("ContentTime", "a series over time (cine)"),
)
TIMES = {"AcquisitionTime", "ContentTime"}
"""Times of the day. They also differ if a slice was sent twice."""
# where an enhanced image has them: (attribute of TELLS, functional group, attribute there)
_ENHANCED_TELLS = (
    ("EchoTime", "MREchoSequence", "EffectiveEchoTime"),
    ("TemporalPositionIdentifier", "FrameContentSequence", "TemporalPositionIndex"),
    ("TriggerTime", "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("DiffusionBValue", "MRDiffusionSequence", "DiffusionBValue"),
    ("ImageType", "MRImageFrameTypeSequence", "FrameType"),
    ("ImageType", "CTImageFrameTypeSequence", "FrameType"),
    ("AcquisitionTime", "FrameContentSequence", "FrameAcquisitionDateTime"),
)


_GREY = ("MONOCHROME2", "MONOCHROME1")


@dataclass(frozen=True)
class Frame:
    """One slice. Coordinates are DICOM's: mm, to the patient's left, posterior and superior.

    index: of the frame in its file. position: of the centre of its first pixel. row, column: unit vectors along a row and down a column.
    spacing: between columns and between rows. shape: (columns, rows).
    """

    instance: Instance
    index: int
    position: FloatArray
    row: FloatArray
    column: FloatArray
    spacing: tuple[float, float]
    shape: tuple[int, int]
    slope: float
    intercept: float
    thickness: float | None
    is_localizer: bool
    tells: dict[str, str]

    @property
    def normal(self) -> FloatArray:
        """The unit vector perpendicular to the slice."""
        return np.asarray(np.cross(self.row, self.column))

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the frame: its file and its number there. UIDs may be wrong: some anonymisers give all images the same."""
        return self.instance.name, self.index


def frames_of(instance: Instance) -> list[Frame]:
    """Return the frames of an image. Raises DataError, naming the file and the attribute, for one that cannot be placed in space."""
    header = instance.header
    with reading(instance.name):
        if int(header.get("SamplesPerPixel", 1)) != 1:
            raise DataError("the image is in colour", field="SamplesPerPixel", found=header.SamplesPerPixel, expected=1)
        if (kind := str(header.get("PhotometricInterpretation") or _GREY[0])) not in _GREY:
            problem = "the image is in colour: its values are no intensities"
            raise DataError(problem, field="PhotometricInterpretation", found=kind[:16], expected=" or ".join(_GREY))
        per_frame = header.get("PerFrameFunctionalGroupsSequence")
        num_frames = int(header.get("NumberOfFrames") or 1)
        if per_frame is None and num_frames > 1:
            is_cine = "FrameTime" in header or "FrameTimeVector" in header
            raise DataError(
                "a series over time (cine) is not a volume" if is_cine else "the frames of the image have no positions",
                field="FrameTime" if is_cine else "PerFrameFunctionalGroupsSequence",
                found=f"{num_frames} frames in one file",
                expected="one image per position",
                remedy="give one point of time, or a volume",
            )
        if per_frame is not None and len(per_frame) != num_frames:
            raise DataError(
                "the header contradicts itself",
                field="NumberOfFrames",
                found=num_frames,
                expected=f"{len(per_frame)}, as frames are described",
            )
        return [_frame(instance, index) for index in range(num_frames)]


def _frame(instance: Instance, index: int) -> Frame:
    header = instance.header
    orientation = _numbers(_group(header, index, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    measures = _group(header, index, "PixelMeasuresSequence")
    between_rows, between_columns = _numbers(measures, "PixelSpacing", 2)
    if min(between_rows, between_columns) <= 0:
        raise DataError("the spacing is unknown", field="PixelSpacing", found=[between_rows, between_columns], expected="positive numbers")
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = (float(np.linalg.norm(row)), float(np.linalg.norm(column)))
    if max(abs(length - 1) for length in lengths) > 1e-2 or abs(float(row @ column)) > 1e-2:
        raise DataError(
            "the axes of the image are not at right angles",
            field="ImageOrientationPatient",
            found=orientation,
            expected="two unit vectors at right angles",
        )
    values = _group(header, index, "PixelValueTransformationSequence")
    if "ModalityLUTSequence" in header:
        raise DataError("the values are scaled by a table, which is not supported", field="ModalityLUTSequence", expected="RescaleSlope")
    slope, intercept = (_number(values, name, default) for name, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)))
    if slope == 0 or slope is None or intercept is None:
        raise DataError("the header is broken", field="RescaleSlope", found=slope, expected="a number other than 0")
    thickness = _number(measures, "SliceThickness", None)
    row = row / lengths[0]
    column = column - (column @ row) * row
    return Frame(
        instance,
        index,
        np.array(_numbers(_group(header, index, "PlanePositionSequence"), "ImagePositionPatient", 3)),
        row,
        column / np.linalg.norm(column),
        (between_columns, between_rows),
        (int(header.Columns), int(header.Rows)),
        slope,
        intercept,
        thickness if thickness and thickness > 0 else None,
        "LOCALIZER" in [str(word).upper() for word in header.get("ImageType") or ()],
        _tells(header, index),
    )


def _group(header: Any, index: int, name: str) -> Any:
    """Return a functional group of a frame of an enhanced image, or the header of any other image."""
    if "PerFrameFunctionalGroupsSequence" not in header:
        return header
    for groups in (header.PerFrameFunctionalGroupsSequence[index], *(header.get("SharedFunctionalGroupsSequence") or ())):
        if groups.get(name):
            return groups[name][0]
    return pydicom().Dataset()


def _tells(header: Any, index: int) -> dict[str, str]:
    found = {name: str(header[name].value) for name, _ in TELLS if name in header}
    if "PerFrameFunctionalGroupsSequence" in header:
        for name, group, attribute in _ENHANCED_TELLS:
            if (value := _group(header, index, group).get(attribute)) is not None:
                found[name] = str(value)
    return found


def _numbers(source: Any, name: str, count: int) -> list[float]:
    value = source.get(name)
    numbers = [float(number) for number in value] if value is not None and value != "" else []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise DataError(
            "the image has no place in space",
            field=name,
            found="none" if not numbers else f"{len(numbers)} numbers, of which some may not be finite",
            expected=f"{count} finite numbers",
            remedy="give images of a volume, e.g. CT or MR",
        )
    return numbers


def _number(source: Any, name: str, default: float | None) -> float | None:
    value = source.get(name)
    number = default if value is None or value == "" else float(value)
    if number is not None and not math.isfinite(number):
        raise DataError("the header is broken", field=name, found=number, expected="a finite number")
    return number
