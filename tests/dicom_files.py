"""DICOM series with known voxels, made with pydicom alone."""

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

PATIENT = {"PatientName": "Muster^Erika", "PatientID": "PAT-4711", "PatientBirthDate": "19611107", "PatientSex": "F"}
STUDY = {"AccessionNumber": "ACC-99", "ReferringPhysicianName": "Hausarzt^Hans", "StudyDescription": "Kopf Muster", "StudyID": "S77"}
SECRETS = ("Muster", "Erika", "-4711", "19611107", "ACC-99", "Hausarzt", "S77", "20010203")
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
COLUMNS, ROWS, SLICES = 6, 5, 4
PIXEL = (2.0, 1.5)
"""Between rows, between columns: DICOM's order."""
ORIGIN = np.array([-10.0, 20.0, 30.0])
STEP = 3.0


def voxels(columns=COLUMNS, rows=ROWS, slices=SLICES):
    """Stored values that name their place: column + 10 row + 100 slice."""
    z, y, x = np.mgrid[:slices, :rows, :columns]
    return (x + 10 * y + 100 * z).astype(np.uint16)


def above(mm):
    """The position of a slice so far above the first."""
    return ORIGIN + np.array([0, 0, mm])


def image(pixels, position, orientation=AXIAL, series="1.2.3.4", **attributes):
    """One image of a slice (rows, columns). attributes: replace the others; None removes one."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    fields = {
        **{"SOPClassUID": MRImageStorage, "SOPInstanceUID": generate_uid(), "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": series},
        **{
            "FrameOfReferenceUID": "1.2.5",
            "Modality": "MR",
            "SeriesDescription": "T1 Muster sagittal",
            "SeriesNumber": 3,
            "InstanceNumber": 1,
        },
        **{"StudyDate": "20010203", "StudyTime": "101112", "ImageType": ["ORIGINAL", "PRIMARY"], "Manufacturer": "phantom"},
        **PATIENT,
        **STUDY,
        **{"Rows": pixels.shape[0], "Columns": pixels.shape[1], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"},
        **{"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": int(pixels.dtype.kind == "i")},
        **{"PixelSpacing": list(PIXEL), "SliceThickness": 3.0, "ImageOrientationPatient": list(orientation)},
        **{"ImagePositionPatient": [round(float(value), 6) for value in position], "PixelData": pixels.tobytes()},
    }
    for name, value in (fields | attributes).items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def normal(orientation):
    return np.cross(orientation[:3], orientation[3:])


def series(pixels=None, step=None, orientation=AXIAL, **attributes):
    """The images of a volume (slices, rows, columns). step: from slice to slice, in mm, to the left, posterior and superior."""
    pixels = voxels() if pixels is None else pixels
    step = STEP * normal(orientation) if step is None else np.asarray(step)
    return [
        image(plane, ORIGIN + number * step, orientation, **{"InstanceNumber": number + 1, **attributes})
        for number, plane in enumerate(pixels)
    ]


def save(folder, images, names=None):
    """Write images into a folder as IM000, IM001, ... or by other names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, dataset in enumerate(images):
        dataset.save_as(folder / (names[number] if names else f"IM{number:03d}"), enforce_file_format=True)
    return folder


def enhanced(pixels=None, order=None, step=STEP, slopes=None, **attributes):
    """One enhanced MR image of a volume, whose frames lie in any order. slopes: of the frames, in the order of the slices."""
    pixels = voxels() if pixels is None else pixels
    order = list(range(len(pixels))) if order is None else order
    dataset = image(pixels[0], ORIGIN, SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=len(order), **attributes)
    for name in ("PixelSpacing", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient"):
        delattr(dataset, name)
    dataset.PixelData = pixels[order].tobytes()
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(PIXEL), STEP
    plane.ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number in order:
        frame, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = above(number * step).tolist()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = (slopes[number] if slopes else 1), 0, "US"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [values]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    return dataset


def ct(**attributes):
    return {"SOPClassUID": CTImageStorage, "Modality": "CT", **attributes}
