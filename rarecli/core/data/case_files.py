"""NIfTI files become cases by their names: one file, or one per channel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rarecli.core.data.cases import Case
from rarecli.core.errors import DataError

SUFFIXES = (".nii.gz", ".nii")
CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def scans_in(folder: Path) -> list[Case]:
    """The scans of a folder by name; files CASE_0000, CASE_0001 ... are channels of one scan if every file is named so."""
    files = nifti_files(folder)
    if not files:
        raise DataError("no scans here", path=folder, expected="files named *.nii or *.nii.gz")
    return _group(files)


def label_files(folder: Path) -> list[Case]:
    """The label files of a folder by name, each a case of its own."""
    if not folder.is_dir():
        raise DataError("there is no such folder", path=folder, expected="a folder of label files")
    return one_each(nifti_files(folder))


def one_each(files: Iterable[Path]) -> list[Case]:
    """Make one case of every file. Raises DataError for two of one name."""
    cases = [Case(case_name(file), (file,)) for file in files]
    require_unique(cases)
    return cases


def nifti_files(folder: Path) -> list[Path]:
    """List the NIfTI files of a folder by name, hidden ones left out."""
    return sorted(file for file in folder.iterdir() if file.name.endswith(SUFFIXES) and not file.name.startswith("."))


def find_scans(inputs: Sequence[Path]) -> list[Case]:
    """Cases for prediction: each input is a file, or a folder of scans."""
    files: list[Path] = []
    cases: list[Case] = []
    for path in inputs:
        if path.is_dir():
            cases += scans_in(path)
        elif not path.exists():
            raise DataError("there is no such file", path=path, expected="a scan, or a folder of scans")
        elif not path.name.endswith(SUFFIXES):
            raise DataError("not a scan", path=path, expected="a name ending in .nii or .nii.gz")
        else:
            files.append(path)
    cases += _group(files)
    require_unique(cases)
    return cases


def case_name(path: Path) -> str:
    """The file name without .nii or .nii.gz."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def _group(files: Iterable[Path]) -> list[Case]:
    """Cases of files. Only if every name ends in four digits and one of them in _0000 are these digits channels, and not part of a name."""
    files = list(files)
    matches = [CHANNEL.match(case_name(file)) for file in files]
    if not all(matches) or not any(match and match["channel"] == "0000" for match in matches):
        return one_each(files)
    groups: dict[tuple[Path, str], dict[int, Path]] = {}
    for file, match in zip(files, matches, strict=True):
        assert match is not None
        channels = groups.setdefault((file.parent, match["case"]), {})
        if (number := int(match["channel"])) in channels:
            raise DataError("a channel is there twice", case=match["case"], path=file, found=channels[number].name)
        channels[number] = file
    for (folder, name), channels in groups.items():
        if missing := sorted(set(range(max(channels) + 1)) - channels.keys()):
            raise DataError(
                "a channel is missing",
                case=name,
                path=folder,
                found=", ".join(file.name for file in channels.values()),
                expected=", ".join(f"{name}_{number:04d}.nii.gz" for number in missing),
            )
    cases = [Case(name, tuple(file for _, file in sorted(channels.items()))) for (_, name), channels in groups.items()]
    require_unique(cases)
    return cases


def require_unique(cases: Iterable[Case]) -> None:
    """Raise DataError if two cases have one name."""
    seen: dict[str, Path] = {}
    for case in cases:
        if case.name in seen:
            raise DataError(
                "two scans have one name", case=case.name, path=case.images[0], found=seen[case.name], expected="different names"
            )
        seen[case.name] = case.images[0]
