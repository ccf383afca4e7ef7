"""Sorts DICOM files into series, and takes the one that is asked for. It never guesses between two."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rarecli.core.errors import DataError, UsageError, some
from rarecli.core.imaging.formats.dicom_files import Instance, find_instances, reading
from rarecli.core.imaging.formats.dicom_frames import frames_of
from rarecli.core.imaging.formats.dicom_geometry import Stack, stack_of

_NOT_SCANS = {"SEG", "RTDOSE"}
"""Modalities of objects that have pixels and are no scans."""
_MOST_SERIES_IN_AN_ERROR = 6
_MOST_LETTERS = 40
_LEAST_WITHIN = 4
"""Shorter parts of a name also occur within words that do not tell of anybody."""


def choose_stack(path: Path, series: str | None = None) -> Stack:
    """Return the volume of a folder, zip or file of DICOM images. series: the UID of its series.

    Raises UsageError for several series and none chosen, and for a series that is not there; DataError for a series that is no volume.
    """
    images, notes = images_by_series(path)
    if series is None and len(images) > 1:
        raise UsageError(
            f"{len(images)} series are here, and one is wanted",
            path=path,
            field="--series",
            found=_listed(images),
            expected="the UID of one series",
            remedy=f"--series {next(iter(images))}, for the first; `rare info` on this path lists them all",
        )
    if series is not None and series not in images:
        raise UsageError("no such series", path=path, field="--series", found=series, expected=_listed(images))
    chosen = images[series if series is not None else next(iter(images))]
    try:
        stack = stack_of([frame for instance in chosen for frame in frames_of(instance)])
    except DataError as error:
        error.path = error.path or path
        raise
    return Stack(stack.frames, stack.step_mm, stack.drift, stack.doubles, (*notes, *stack.notes))


def images_by_series(path: Path) -> tuple[dict[str, list[Instance]], list[str]]:
    """Return the images by the UID of their series, and a note about objects that are no images, which are left out.

    Raises DataError if there is no image.
    """
    images: dict[str, list[Instance]] = {}
    others: list[str] = []
    for instance in find_instances(path):
        with reading(instance.name):
            header = instance.header
            if "Rows" in header and header.get("Modality") not in _NOT_SCANS:
                images.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(instance)
            else:
                others.append(_kind(header))
    kinds = some(f"{num} {kind}" for kind, num in Counter(others).items())
    if not images:
        raise DataError("no images here", path=path, found=kinds, expected="DICOM images", remedy="give the images of the scan")
    return dict(sorted(images.items())), [f"left out objects that are no images: {kinds}"] if others else []


def describe_series(path: Path) -> list[str]:
    """Return one line per series: its UID, modality, description without the patient, number of slices and spacing."""
    return [_describe(uid, instances) for uid, instances in images_by_series(path)[0].items()]


def _listed(images: dict[str, list[Instance]]) -> str:
    lines = [_describe(uid, instances) for uid, instances in list(images.items())[:_MOST_SERIES_IN_AN_ERROR]]
    more = len(images) - len(lines)
    return "".join(f"\n    {line}" for line in lines) + (f"\n    and {more} more" if more else "")


def _describe(uid: str, instances: Sequence[Instance]) -> str:
    num_slices = sum(int(instance.header.get("NumberOfFrames") or 1) for instance in instances)
    header = instances[0].header
    with reading(instances[0].name):
        description = _description(header)
    words = [str(header.get("Modality", "")), description, f"{num_slices} slice{'' if num_slices == 1 else 's'}"]
    try:
        stack = stack_of([frame for instance in instances for frame in frames_of(instance)])
        words.append(" x ".join(f"{size:.4g}" for size in (*stack.frames[0].spacing, stack.step_mm)) + " mm")
    except DataError as error:
        words.append(f"not a volume: {error.problem}")
    return f"{uid}  {', '.join(filter(None, words))}"


def _description(header: Any) -> str:
    """Return the description of a series without words of the patient's name and numbers, and without the date of birth in any form."""
    patient: set[str] = set()
    for name in ("PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs"):
        patient |= set(_words(str(header.get(name, ""))))
    born = re.sub(r"\D", "", str(header.get("PatientBirthDate", "")))
    dates = {born, born[4:] + born[:4], born[6:] + born[4:6] + born[:4]} if len(born) == 8 else set()  # in three orders
    text = "".join(letter if letter.isprintable() else " " for letter in str(header.get("SeriesDescription", "")))
    kept = [word for word in text.split() if not _tells_of(word, patient, dates)]
    return " ".join(kept)[:_MOST_LETTERS]


def _tells_of(word: str, patient: set[str], dates: set[str]) -> bool:
    """Return whether a word holds one of the patient's, alone or within another, without the signs between its letters and numbers."""
    plain, digits = re.sub(r"[\W_]+", "", word.lower()), re.sub(r"\D", "", word)
    within = any(len(part) >= _LEAST_WITHIN and part in plain for part in patient)
    return within or bool(patient & {plain, *_words(word)}) or any(date in digits for date in dates)


def _words(text: str) -> list[str]:
    """Return the words and numbers of a text in lower case, without single letters."""
    return [word for word in re.split(r"[\W_]+", text.lower()) if len(word) > 1]


def _kind(header: Any) -> str:
    uid = header.get("SOPClassUID")
    return str(uid.name).removesuffix(" Storage") if uid else "unknown object"
