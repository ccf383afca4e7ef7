"""Reads the volume of a DICOM series: decodes its slices, rescales each, and straightens a gantry tilt.

Decision: docs/decisions/0021-formats.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rarecli.core.errors import DataError
from rarecli.core.imaging.formats.dicom_files import Instance, pydicom, reading
from rarecli.core.imaging.formats.dicom_frames import Frame
from rarecli.core.imaging.formats.dicom_geometry import Stack
from rarecli.core.imaging.formats.dicom_series import choose_stack
from rarecli.core.imaging.formats.raw_scan import RawScan
from rarecli.core.imaging.nifti_header import BYTES_PER_VOXEL
from rarecli.core.jobs.memory import require_memory
from rarecli.core.types import AnyArray, FloatArray

_JPEG_EXTENDED = "51"
# by the last number of the transfer syntax: JPEG, JPEG-LS, JPEG 2000
_DECODERS = {"50": "pillow", _JPEG_EXTENDED: "pillow", "80": "pyjpegls", "81": "pyjpegls", "90": "pylibjpeg", "91": "pylibjpeg"}


@dataclass(frozen=True)
class DicomSource:
    """Where a volume came from: its slices, for results that refer to them."""

    stack: Stack

    def on_slices(self, labels: AnyArray) -> AnyArray:
        """Return labels (X, Y, Z) of the volume's grid on the slices themselves, (slices, rows, columns), in the order of the stack.

        Without a gantry tilt these are the same voxels; with one, the nearest.
        """
        if self.stack.drift == (0.0, 0.0):
            return np.ascontiguousarray(labels.transpose(2, 1, 0))
        from scipy.ndimage import affine_transform  # here, since `rare predict` starts with this module

        columns, rows = self.stack.frames[0].shape
        slices = np.zeros((labels.shape[2], rows, columns), labels.dtype)
        for number in range(labels.shape[2]):
            offset = [round(number * drift - shift, 6) for drift, shift in zip(self.stack.drift, self.stack.shift, strict=True)]
            plane = affine_transform(labels[:, :, number], np.ones(2), offset, output_shape=(columns, rows), order=0)
            slices[number] = plane.T
        return slices


def read_dicom(path: Path, case: str | None = None, series: str | None = None) -> RawScan:
    """Read the series of a folder, a zip or a file, as (1, X, Y, Z) float32. series: its UID, where there are several.

    X runs along the rows of the images, Y down their columns, Z along their normal. Raises DataError, with case and path, for a series
    that is not one volume, UsageError for several series and none chosen.
    """
    try:
        stack = choose_stack(path, series)
        num_slices = len(stack.frames)
        require_memory(math.prod(stack.shape) * BYTES_PER_VOXEL, "reading the scan")
        columns, rows = stack.frames[0].shape
        voxels = np.empty((num_slices, rows, columns), np.float32)
        _fill(voxels, stack)
        data = voxels.transpose(2, 1, 0) if stack.drift == (0.0, 0.0) else _straightened(voxels, stack)
    except DataError as error:
        error.case, error.path = case, error.path or path
        raise
    return RawScan(data[None], stack.affine, DicomSource(stack), stack.notes)


def read_dicom_geometry(path: Path, series: str | None = None) -> tuple[tuple[int, ...], FloatArray]:
    """Return the sizes of the three axes and the affine in mm, from the headers alone. Raises what `read_dicom` raises."""
    stack = choose_stack(path, series)
    return stack.shape, stack.affine


def _fill(voxels: AnyArray, stack: Stack) -> None:
    """Decode the slices into (slices, rows, columns), file by file, and compare those that lie at one place."""
    numbers = {frame.key: number for number, frame in enumerate(stack.frames)}
    by_file: dict[str, list[Frame]] = {}
    for frame in (*stack.frames, *(other for _, other in stack.doubles)):
        by_file.setdefault(frame.instance.name, []).append(frame)
    same_place = {other.key: first for first, other in stack.doubles}
    held: dict[tuple[str, int], AnyArray] = {}
    for frames in by_file.values():
        for frame, pixels in zip(frames, _decoded(frames[0].instance, [frame.index for frame in frames]), strict=True):
            if pixels.shape != voxels.shape[1:]:
                raise DataError("the image has another size than its header", path=frame.instance.name, found=pixels.shape)
            values = pixels * frame.slope + frame.intercept
            if frame.key in numbers:
                voxels[numbers[frame.key]] = values
            else:
                held[frame.key] = values.astype(np.float32)
    for key, values in held.items():
        first = same_place[key]
        if not np.array_equal(values, voxels[numbers[first.key]]):
            raise DataError(
                "two different images lie at one position",
                path=first.instance.name,
                field="ImagePositionPatient",
                found=f"{len(held)} such pairs at most, nothing in their headers tells them apart",
                expected="one image per position",
                remedy="remove the wrong ones",
            )


def _decoded(instance: Instance, indices: list[int]) -> Iterator[AnyArray]:
    """Yield the stored values of frames (rows, columns), in the order of `indices`. Raises DataError for broken pixel data."""
    pydicom()
    from pydicom.pixels.utils import iter_pixels

    with reading(instance.name), instance.open() as file:
        try:
            for frame in iter_pixels(file, indices=indices, raw=True, decoding_plugin=_decoder(instance)):
                yield np.asarray(frame, dtype=np.float64)
        except (NotImplementedError, RuntimeError, AttributeError) as error:  # the last for deflated files, which it cannot read
            raise _not_decoded(instance, error) from None


def _decoder(instance: Instance) -> str:
    """Return the package that decodes the pixels of an image; pydicom's own choice for those without an entry in `_DECODERS`.

    Only one is tried: GDCM, which pydicom would try first, ends the process on some broken JPEG-LS streams.
    """
    name = str(instance.header.file_meta.get("TransferSyntaxUID", "")).removeprefix("1.2.840.10008.1.2.4.")
    is_deep = name == _JPEG_EXTENDED and int(instance.header.get("BitsStored") or 16) > 8
    return "gdcm" if is_deep else _DECODERS.get(name, "")


def _not_decoded(instance: Instance, error: Exception) -> DataError:
    syntax = instance.header.file_meta.get("TransferSyntaxUID")
    return DataError(
        "the pixels cannot be decoded",
        path=instance.name,
        field="TransferSyntaxUID",
        found=f"{syntax.name}: {type(error).__name__}" if syntax else type(error).__name__,
        expected="uncompressed, RLE, JPEG, JPEG-LS or JPEG 2000",
        remedy="copy the series again, or export it uncompressed",
    )


def _straightened(voxels: AnyArray, stack: Stack) -> AnyArray:
    """Return (X, Y, Z) on the straight grid of a tilted stack: linear within each slice, the lowest value beside it."""
    from scipy.ndimage import affine_transform

    straight = np.empty(stack.shape, np.float32)
    fill = float(voxels.min())
    for number in range(len(voxels)):
        # rounded, or an edge that lies where it was would count as outside
        offset = [round(shift - number * drift, 6) for drift, shift in zip(stack.drift, stack.shift, strict=True)]
        plane = voxels[number].T
        affine_transform(plane, np.ones(2), offset, output=straight[:, :, number], output_shape=stack.shape[:2], order=1, cval=fill)
    return straight
