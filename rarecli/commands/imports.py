"""Imports other packages without what they import and no command uses. Only the process of a command may do so: a library may not."""

import importlib
import sys


def import_nibabel_alone() -> None:
    """Import nibabel without pydicom, which it needs only to show DICOM headers inside a NIfTI file: half of its time to import.

    pydicom itself can be imported afterwards.
    """
    if "pydicom" not in sys.modules:
        sys.modules["pydicom"] = None  # type: ignore[assignment]
        try:
            importlib.import_module("nibabel")
        finally:
            del sys.modules["pydicom"]
