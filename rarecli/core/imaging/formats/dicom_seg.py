"""Writes labels as a DICOM segmentation that refers to the images of the scan, with highdicom.

Decision: docs/decisions/0021-formats.md.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rarecli.core.errors import DataError, missing_extra
from rarecli.core.imaging.formats.dicom_files import Instance, pydicom, reading
from rarecli.core.imaging.formats.dicom_scan import DicomSource
from rarecli.core.imaging.formats.segment_codes import UNKNOWN, Code, Segment
from rarecli.core.jobs.files import atomic_file
from rarecli.core.types import AnyArray
from rarecli.core.versions import installed_versions

if TYPE_CHECKING:
    from pydicom import Dataset

_TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
"""What the standard wants in every object, empty if it is not known."""
_GEOMETRY = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "ImageType"),
    *("Rows", "Columns", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient"),
    *("NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DimensionIndexSequence", "DimensionOrganizationSequence"),
)
"""All that an anonymous segmentation keeps of an image: its place in space and the UIDs that its viewers need to find it."""

_PLACE = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PlanePositionSequence": ("ImagePositionPatient",),
}
"""And of the functional groups of an enhanced image."""


def require_highdicom() -> Any:
    """Return the module highdicom. Raises EnvironmentFault, which names the extra, if it is not installed."""
    pydicom()
    try:
        import highdicom
    except ModuleNotFoundError as error:
        raise missing_extra("highdicom", "dicom") from error
    logging.getLogger("highdicom").setLevel(logging.CRITICAL)
    return highdicom


def write_segmentation(
    path: Path, labels: AnyArray, source: DicomSource, segments: Sequence[Segment], model: str, *, anonymous: bool = False
) -> None:
    """Write labels (X, Y, Z) on the grid of a DICOM series, one segment per label, atomically.

    model: the name of the algorithm. anonymous: leave out everything of the patient and the study but UIDs.
    Raises DataError for a series without the UIDs that a segmentation refers to.
    """
    highdicom, version = require_highdicom(), _version()
    on_slices = source.on_slices(labels)
    slices = np.zeros(on_slices.shape, np.uint8 if len(segments) < 256 else np.uint16)
    for number, segment in enumerate(segments, start=1):
        slices[on_slices == segment.value] = number
    images, frames = _images(source, anonymous)
    planes = np.zeros((len(frames), *slices.shape[1:]), slices.dtype)
    for number, frame in enumerate(source.stack.frames):
        planes[frames[frame.key]] = slices[number]
    with reading(source.stack.frames[0].instance.name):  # errors and warnings of highdicom quote the header
        segmentation = highdicom.seg.Segmentation(
            source_images=images,
            pixel_array=planes,
            segmentation_type="BINARY",
            segment_descriptions=[
                _description(highdicom, number, segment, model, version) for number, segment in enumerate(segments, start=1)
            ],
            series_instance_uid=highdicom.UID(),
            series_number=1,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="rare",
            manufacturer_model_name=model[:64],
            software_versions=version,
            device_serial_number="0",
            content_label="SEGMENTATION",
            series_description=f"rare {model}"[:64],
        )
        for item, segment in zip(segmentation.SegmentSequence, segments, strict=True):
            if segment.code and segment.code.modifier:
                item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
                    _concept(highdicom, segment.code.modifier)
                ]
        if anonymous:
            segmentation.PatientIdentityRemoved = "YES"
            segmentation.DeidentificationMethod = "patient and study left out by rare"
        segmentation.decode()
        segmentation.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, since names of labels are in any language
    with atomic_file(path) as temporary:
        segmentation.save_as(temporary)


def _version() -> str:
    return installed_versions(["rare-unet"]).get("rare-unet", "unknown")


def _images(source: DicomSource, anonymous: bool) -> tuple[list[Dataset], dict[tuple[str, int], int]]:
    """Return the headers of the images, and the number of each frame among all frames of these images."""
    instances: dict[str, Instance] = {}
    for frame in source.stack.frames:
        instances.setdefault(frame.instance.name, frame.instance)
    if len(instances) > 1 and any("PerFrameFunctionalGroupsSequence" in instance.header for instance in instances.values()):
        raise DataError(
            "the volume is spread over several enhanced images, to which one segmentation cannot refer",
            found=f"{len(instances)} images",
            expected="one enhanced image, or one image per slice",
            remedy="use --format nifti",
        )
    images: list[Dataset] = []
    frames: dict[tuple[str, int], int] = {}
    for name, instance in instances.items():
        image = _header(instance, source.stack.step_mm, anonymous)
        images.append(image)
        for index in range(int(image.get("NumberOfFrames") or 1)):
            frames[name, index] = len(frames)
    if len({image.SOPInstanceUID for image in images}) < len(images):
        problem = "a segmentation cannot refer to images that share a UID"
        raise DataError(problem, field="SOPInstanceUID", found="one of several images", expected="one each", remedy="use --format nifti")
    return images, frames


def _header(instance: Instance, step_mm: float, anonymous: bool) -> Dataset:
    """Return the complete header of an image; its place in space and its UIDs alone if `anonymous`.

    Values of the patient and the study that the standard does not allow become empty. step_mm: the distance of slices by their positions,
    which takes the place of what the header says.
    """
    with reading(instance.name), instance.open() as file:
        image: Dataset = pydicom().dcmread(file, stop_before_pixels=True)
        for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            if not image.get(name):
                raise DataError(
                    "a segmentation cannot refer to this image", field=name, found="none", expected="a UID", remedy="use --format nifti"
                )
        if anonymous:
            kept = pydicom().Dataset()
            kept.file_meta = image.file_meta
            for name in _GEOMETRY:
                if name in image:
                    kept[name] = image[name]
            for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
                if name in kept:
                    setattr(kept, name, [_place_of(group) for group in kept[name].value])
            image = kept
        for name in _TYPE_2:
            if not _is_allowed(name, image.get(name)):
                setattr(image, name, "")
        for place in _places(image):
            if "SliceThickness" not in place:
                place.SliceThickness = None
            if "SpacingBetweenSlices" in place:
                place.SpacingBetweenSlices = step_mm
        return image


def _place_of(group: Dataset) -> Dataset:
    """Return what functional groups say of a frame's place, without the elements of others that may lie there."""
    place: Dataset = pydicom().Dataset()
    for name, attributes in _PLACE.items():
        if group.get(name):
            item = pydicom().Dataset()
            for attribute in attributes:
                if attribute in group[name].value[0]:
                    item[attribute] = group[name].value[0][attribute]
            setattr(place, name, [item])
    return place


def _is_allowed(name: str, value: Any) -> bool:
    """Return whether highdicom takes a value of `_TYPE_2`: a date, a time and a sex must be what the standard knows."""
    kinds = {"PatientBirthDate": "DA", "StudyDate": "DA", "StudyTime": "TM"}
    try:
        if name in kinds and value:
            getattr(pydicom().valuerep, kinds[name])(str(value))
    except ValueError:
        return False
    return value is not None and (name != "PatientSex" or value in ("M", "F", "O", ""))


def _places(image: Dataset) -> list[Dataset]:
    """Return where an image says how far its slices lie apart: itself, or the functional groups of an enhanced image."""
    groups = [*(image.get("SharedFunctionalGroupsSequence") or ()), *(image.get("PerFrameFunctionalGroupsSequence") or ())]
    measures = [group.PixelMeasuresSequence[0] for group in groups if group.get("PixelMeasuresSequence")]
    return measures if "PerFrameFunctionalGroupsSequence" in image else [image]


def _description(highdicom: Any, number: int, segment: Segment, model: str, version: str) -> Any:
    code = segment.code or UNKNOWN
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:64],
        segmented_property_category=_concept(highdicom, code.category),
        segmented_property_type=_concept(highdicom, code.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=model[:64], family=highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"), version=version
        ),
    )


def _concept(highdicom: Any, code: Code) -> Any:
    return highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning)
