"""NIfTI files with chosen bytes (NIfTI-1 offsets: nifti1.h)."""

import gzip
import struct

import nibabel as nib
import numpy as np

DIM, DATATYPE, PIXDIM, VOX_OFFSET, SLOPE, INTER, XYZT = 40, 70, 76, 108, 112, 116, 123
QFORM_CODE, SFORM_CODE, SROW, MAGIC = 252, 254, 280, 344
VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
AFFINE = np.array([[1.0, 0, 0, -5], [0, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])


def make(path, *patches, data=VOXELS, affine=AFFINE, endian="<", kind=nib.Nifti1Image):
    """Write a scan, then overwrite bytes of it: each patch is (offset, struct format, values...)."""
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(data.dtype.newbyteorder(endian))
    image = kind(data, affine, header)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    raw = bytearray(image.to_bytes())
    for offset, form, *values in patches:
        struct.pack_into(endian + form, raw, offset, *values)
    path.write_bytes(gzip.compress(bytes(raw)) if path.name.endswith(".gz") else raw)
    return path
