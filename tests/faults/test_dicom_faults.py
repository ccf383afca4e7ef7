"""Faults 57 to 70, in DICOM series, made with pydicom."""

import io
import warnings
import zipfile

import numpy as np
import pytest
from dicom_files import (
    COLUMNS,
    CORONAL,
    ORIGIN,
    PIXEL,
    ROWS,
    SAGITTAL,
    SECRETS,
    SLICES,
    STEP,
    above,
    ct,
    enhanced,
    image,
    save,
    series,
    voxels,
)
from pydicom.uid import BasicTextSRStorage, ComprehensiveSRStorage, JPEGLSLossless, RTStructureSetStorage, SegmentationStorage
from scipy.spatial.transform import Rotation

from rarecli.core.data.case_files import find_scans
from rarecli.core.data.cases import read_image
from rarecli.core.errors import DataError, RareError, UsageError
from rarecli.core.imaging.volume import read_volume

IN_ORDER = voxels().transpose(2, 1, 0)
"""What the volume of `series()` is: X along the rows, Y down the columns, Z along the normal."""


def refusal(path, kind=DataError, **options):
    """The words of the error that reading raises; they name nothing of the patient."""
    with pytest.raises(kind) as caught, warnings.catch_warnings(action="ignore"):
        read_volume(path, case="case 7", **options)
    words = str(caught.value)
    assert "found: " in words
    assert "expected: " in words
    assert not any(secret in words for secret in SECRETS)
    return words


def noted(path, words, **options):
    """The volume that is read with a note of these words."""
    with pytest.warns(UserWarning, match=words) as caught:
        volume = read_volume(path, **options)
    assert not any(secret in str(warning.message) for secret in SECRETS for warning in caught)
    return volume


def test_fault_57_a_gantry_tilt_is_straightened(tmp_path):
    """Resampled to a straight grid; a note says the angle and both sizes."""
    # 2 mm down a column for 3 mm along the normal: a pixel of 2 mm a slice, so the straight grid needs no interpolation
    words = "gantry tilt of 33.7 degrees: resampled from 6 x 5 x 4 to a straight grid of 6 x 8 x 4 voxels"
    volume = noted(save(tmp_path / "a", series(step=(0, 2, 3), **ct())), words)
    assert volume.shape == (COLUMNS, ROWS + 3, SLICES)
    np.testing.assert_array_equal(volume.affine, [[-1.5, 0, 0, 10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])
    for number in range(SLICES):
        np.testing.assert_array_equal(volume.data[0, :, number : number + ROWS, number], IN_ORDER[:, :, number])
        assert (np.delete(volume.data[0, :, :, number], range(number, number + ROWS), axis=1) == 0).all()


@pytest.mark.parametrize("degrees", [-20.0, 12.5])
def test_fault_57_a_tilted_ramp_stays_a_ramp(degrees, tmp_path):
    """The values lie where they lay in the patient, whichever way the gantry leans."""
    down = STEP * np.tan(np.radians(degrees))
    z, y, _ = np.mgrid[:6, :12, :4]
    ramp = 1000 + 10 * (y * PIXEL[0] + z * down)  # 10 per mm to the posterior
    volume = noted(
        save(tmp_path / "a", series(ramp.round(6).astype(np.int16), step=(0, down, STEP))), f"tilt of {abs(degrees):.1f} degrees"
    )
    points = np.moveaxis(np.indices(volume.shape), 0, -1) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    posterior = -points[..., 1] - ORIGIN[1]
    inside = volume.data[0] != volume.data.min()
    assert inside.mean() > 0.7
    np.testing.assert_allclose(volume.data[0][inside], (1000 + 10 * posterior)[inside], atol=1.0)


def test_fault_57_sideways_beyond_any_gantry(tmp_path):
    """Refused beyond 45 degrees."""
    assert "advance sideways" in refusal(save(tmp_path / "a", series(step=(0, 9, 3))))


@pytest.mark.parametrize(("left_out", "words"), [([2], "a slice is missing"), ([3, 4, 6], "3 slices are missing")])
def test_fault_58_missing_slices(left_out, words, tmp_path):
    """Refused, with the gap and the usual distance; nothing is interpolated."""
    images = [item for number, item in enumerate(series(voxels(slices=9))) if number not in left_out]
    said = refusal(save(tmp_path / "a", images))
    assert words in said
    assert "found: " + ("6 mm between slices 2 and 3 of 8" if len(left_out) == 1 else "9 mm between slices 3 and 4 of 6") in said
    assert "expected: 3 mm between all slices" in said


def test_fault_59_a_slice_sent_twice(tmp_path):
    """Read once, with a note, if the pixels are the same."""
    images = series()
    images.append(image(voxels()[1], above(STEP), AcquisitionTime="101500"))
    images[1].AcquisitionTime = "101400"
    volume = noted(save(tmp_path / "a", images), "left out 1 image that occurred twice")
    np.testing.assert_array_equal(volume.data[0], IN_ORDER)
    copied = [*series(), series()[0]]
    copied[-1].SOPInstanceUID = copied[-1].file_meta.MediaStorageSOPInstanceUID = copied[0].SOPInstanceUID
    np.testing.assert_array_equal(noted(save(tmp_path / "b", copied), "occurred twice").data[0], IN_ORDER)


def test_fault_59_two_images_at_one_position(tmp_path):
    """Refused if the pixels differ."""
    said = refusal(save(tmp_path / "a", [*series(), image(voxels()[1] + 1, above(STEP))]))
    assert "two different images lie at one position" in said


@pytest.mark.parametrize("which", [slice(None), slice(0, 4, 3)])
def test_fault_59_images_that_share_a_uid(which, tmp_path):
    """Read whole: the positions decide, and the pixels of what lies at one place."""
    images = series()
    for dataset in images[which]:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    np.testing.assert_array_equal(read_volume(save(tmp_path / "a", images)).data[0], IN_ORDER)
    other = image(voxels()[0] + 7, ORIGIN, SOPInstanceUID="1.2.3.4.5")
    assert "two different images lie at one position" in refusal(save(tmp_path / "b", [*images, other]))


def test_fault_58_a_slice_whose_file_cannot_be_read(tmp_path):
    """Refused, with its name: at the end of a series, nothing else would tell that it is missing."""
    for number, spoil in enumerate((lambda path: path.write_bytes(b""), lambda path: path.write_bytes(bytes(100)), make_dangling)):
        folder = save(tmp_path / str(number), series(), names=[f"1.2.{index}" for index in range(SLICES)])
        spoil(folder / "1.2.3")
        assert "1.2.3" in refusal(folder)
    folder = save(tmp_path / "others", series())
    (folder / "notes.txt").write_bytes(b"")
    (folder / "VERSION").write_text("7")
    np.testing.assert_array_equal(read_volume(folder).data[0], IN_ORDER)


def make_dangling(path):
    path.unlink()
    path.symlink_to("nowhere")


def test_fault_60_a_localizer_inside_the_series(tmp_path):
    """Left out with a note, as its ImageType says what it is."""
    scout = image(voxels()[0], (0, 0, 0), SAGITTAL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    volume = noted(save(tmp_path / "a", [scout, *series()]), "left out 1 localizer of 5 images")
    np.testing.assert_array_equal(volume.data[0], IN_ORDER)
    assert "only localizers" in refusal(save(tmp_path / "b", [scout]))


def test_fault_61_mixed_orientations(tmp_path):
    """Refused, with the number of images in each plane."""
    images = [*series(), *(image(voxels()[0], (0, number, 0), CORONAL) for number in range(2))]
    assert "4 images axial, 2 images coronal" in refusal(save(tmp_path / "a", images))
    tilted = [1, 0, 0, 0, np.cos(0.1), np.sin(0.1)]
    assert "at different angles" in refusal(save(tmp_path / "b", [*series(), image(voxels()[0], (0, 0, 99), tilted)]))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_fault_62_frames_in_either_order(order, tmp_path):
    """The position decides: the same volume from rising, falling and mixed instance numbers and frames."""
    images = series()
    for number, place in enumerate(order):
        images[place].InstanceNumber = number + 1
    for path in (save(tmp_path / "a", [images[place] for place in order]), save(tmp_path / "b", [enhanced(order=order)])):
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.data[0], IN_ORDER)
        np.testing.assert_array_equal(volume.affine, [[-1.5, 0, 0, 10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])


def test_fault_63_irregular_gaps(tmp_path):
    """Refused, with the odd gap; a tenth of a mm of rounding is none."""
    uneven = [image(plane, above(z)) for plane, z in zip(voxels(), (0, 3, 6, 10.3), strict=True)]
    said = refusal(save(tmp_path / "a", uneven))
    assert "not evenly spaced" in said
    assert "found: 4.3 mm between slices 3 and 4 of 4" in said
    rounded = [image(plane, above(z)) for plane, z in zip(voxels(), (0, 0.6, 1.3, 1.9), strict=True)]  # of 0.625
    assert read_volume(save(tmp_path / "b", rounded)).spacing_mm[2] == pytest.approx(1.9 / 3)


@pytest.mark.parametrize("degrees", [(0, 0), (20, 0), (15, 10)])
@pytest.mark.parametrize("step", [0.5, 0.625, 1.25, 3.0])
def test_fault_63_positions_rounded_to_a_tenth(step, degrees, tmp_path):
    """They are one straight stack, wherever it begins and however it lies."""
    turned = Rotation.from_euler("xy", degrees, degrees=True).as_matrix()
    orientation, rng = [*turned[:, 0], *turned[:, 1]], np.random.default_rng(0)
    for number in range(5):
        origin = rng.uniform(-50, 50, 3)
        places = [(origin + index * step * turned[:, 2]).round(1) for index in range(12)]
        images = [image(voxels()[0], place, orientation, PixelSpacing=[0.45, 0.45]) for place in places]
        volume = read_volume(save(tmp_path / str(number), images))
        assert volume.shape == (COLUMNS, ROWS, 12)
        assert volume.spacing_mm[2] == pytest.approx(step, abs=2 * 0.0867 / 11)
        del images[5]
        refusal(save(tmp_path / f"{number} without one", images))


@pytest.mark.parametrize("field", ["TemporalPositionIdentifier", "TriggerTime", "AcquisitionTime"])
def test_fault_64_a_cine_of_several_slices(field, tmp_path):
    """Refused, naming the attribute in which the images of one position differ."""
    times = [
        {"TemporalPositionIdentifier": number, "TriggerTime": 40.0 * number, "AcquisitionTime": f"10150{number}"} for number in range(3)
    ]
    images = [item for time in times for item in series(**{field: time[field]})]
    said = refusal(save(tmp_path / "a", images))
    assert "a series over time (cine)" in said
    assert f"field: {field}" in said
    assert "3 values at one position, in 4 of 4 positions" in said


def test_fault_64_a_cine_of_one_slice_in_one_file(tmp_path):
    """Refused: its frames have no positions."""
    cine = image(voxels()[0], ORIGIN, NumberOfFrames=SLICES, FrameTime=40.0, PixelData=voxels().tobytes())
    said = refusal(save(tmp_path / "a", [cine]))
    assert "a series over time (cine)" in said
    assert "4 frames in one file" in said


def other_object(sop_class, modality):
    item = image(voxels()[0], ORIGIN, SOPClassUID=sop_class, Modality=modality)
    for name in ("Rows", "Columns", "PixelData", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(item, name)
    return item


def test_fault_65_objects_that_are_no_images(tmp_path):
    """Left out with a note that counts them by kind; a folder of nothing else is refused."""
    others = [
        other_object(BasicTextSRStorage, "SR"),
        other_object(ComprehensiveSRStorage, "SR"),
        other_object(RTStructureSetStorage, "RTSTRUCT"),
    ]
    others.append(image(voxels()[0], ORIGIN, SOPClassUID=SegmentationStorage, Modality="SEG"))
    path = save(tmp_path / "a", [*others, *series()])
    (path / "README.txt").write_text("no DICOM")
    (path / "DICOMDIR").write_bytes(bytes(200))
    volume = noted(path, "left out objects that are no images: 1 Basic Text SR, 1 Comprehensive SR, 1 RT Structure Set, 1 Segmentation")
    np.testing.assert_array_equal(volume.data[0], IN_ORDER)
    assert "no images here" in refusal(save(tmp_path / "b", others))
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="no DICOM files here"):
        read_volume(tmp_path / "c")


def test_fault_66_one_slice(tmp_path):
    """Read with its thickness as spacing, which a note says; refused without a thickness."""
    volume = noted(save(tmp_path / "a", series()[:1]), "one slice; its thickness, 3 mm, is its spacing")
    assert volume.shape == (COLUMNS, ROWS, 1)
    assert volume.spacing_mm == (1.5, 2, 3)
    assert "SliceThickness" in refusal(save(tmp_path / "b", series(SliceThickness=None)[:1]))


def test_fault_67_shuffled_names(tmp_path):
    """The names of the files do not matter, nor do folders below."""
    path = save(tmp_path / "a", series()[:2], ["z", "8.dcm"])
    save(path / "deeper" / "still", series()[2:], ["a b", "IM1.ima"])
    np.testing.assert_array_equal(read_volume(path).data[0], IN_ORDER)
    by_another_name = save(tmp_path / "b", series(), [f"{number}.img" for number in range(SLICES)])
    (case,) = find_scans([by_another_name])
    np.testing.assert_array_equal(read_image(case).data[0], IN_ORDER)


def test_fault_68_several_echoes(tmp_path):
    """Refused, with the echo times."""
    images = [item for echo in (4.6, 9.2) for item in series(EchoTime=echo)]
    said = refusal(save(tmp_path / "a", images))
    assert "several echoes in one series" in said
    assert "2 values at one position, in 4 of 4 positions: 4.6, 9.2" in said
    both = enhanced(np.concatenate([voxels(), voxels() + 1]))
    for number, frame in enumerate(both.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = above(STEP * (number % SLICES)).tolist()
        frame.MREchoSequence = [type(frame)()]
        frame.MREchoSequence[0].EffectiveEchoTime = 5.0 if number < SLICES else 10.0
    assert "several echoes in one series" in refusal(save(tmp_path / "b", [both]))


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"PixelSpacing": None}, "field: PixelSpacing"),
        ({"PixelSpacing": [0, 1]}, "spacing is unknown"),
        ({"ImagePositionPatient": None}, "field: ImagePositionPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angles"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "field: ImageOrientationPatient"),
        ({"RescaleSlope": 0}, "RescaleSlope"),
        ({"SamplesPerPixel": 3}, "in colour"),
        ({"Rows": 50}, "DICOM file is broken"),
        ({"Rows": 60000, "Columns": 60000}, "DICOM file is broken|more memory"),
        ({"BitsAllocated": 12}, "DICOM file is broken"),
    ],
)
def test_fault_69_a_header_without_its_geometry(attributes, words, tmp_path):
    """Refused, naming the attribute."""
    said = refusal(save(tmp_path / "a", series(**attributes)))
    assert any(word in said for word in words.split("|"))


def test_fault_69_images_that_differ(tmp_path):
    """Refused, with the sizes, spacings or frames of reference that occur."""
    wide = image(np.zeros((ROWS, 9), np.uint16), above(12))
    assert "3 images of" not in refusal(save(tmp_path / "a", [*series(), wide]))
    assert "4 images of 6 x 5, 1 images of 9 x 5" in refusal(tmp_path / "a")
    finer = image(voxels()[0], above(12), PixelSpacing=[1, 1])
    assert "field: PixelSpacing" in refusal(save(tmp_path / "b", [*series(), finer]))
    moved = image(voxels()[0], above(12), FrameOfReferenceUID="1.2.6")
    assert "field: FrameOfReferenceUID" in refusal(save(tmp_path / "c", [*series(), moved]))


def test_fault_69_a_file_that_is_cut_short(tmp_path):
    """Refused, naming the file; a slice is never filled up."""
    path = save(tmp_path / "a", series())
    whole = (path / "IM002").read_bytes()
    (path / "IM002").write_bytes(whole[:-7])
    assert "IM002" in refusal(path)
    for length in range(132, len(whole) - 1, 23):
        (path / "IM003").unlink(missing_ok=True)
        (path / "IM002").write_bytes(whole[:length])
        said = refusal(path)
        assert "IM002" in said, length


def test_fault_69_a_broken_jpeg_ls_stream(tmp_path):
    """Refused, naming the transfer syntax; GDCM, which pydicom would take, would end the process."""
    images = series(voxels(64, 48))
    for item in images:
        item.compress(JPEGLSLossless)
    path = save(tmp_path / "a", images)
    raw = bytearray((path / "IM001").read_bytes())
    raw[raw.index(b"\xff\xf7") + 4] = 0  # the bits of a sample, in the start of the frame
    (path / "IM001").write_bytes(raw)
    said = refusal(path)
    assert "the pixels cannot be decoded" in said
    assert "JPEG-LS Lossless" in said
    assert "IM001" in said


def test_fault_69_bad_zips(tmp_path):
    """Refused: cut short, encrypted, or without DICOM."""
    packed = io.BytesIO()
    folder = save(tmp_path / "a", series())
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    raw = packed.getvalue()
    (tmp_path / "short.zip").write_bytes(raw[: len(raw) // 2])
    assert "the zip is broken" in refusal(tmp_path / "short.zip")
    locked = bytearray(raw)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := locked.find(mark, at + 1)) >= 0:
            locked[at + offset] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    assert "encrypted" in refusal(tmp_path / "locked.zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("a.txt", "no DICOM")
    assert "no DICOM files here" in refusal_of_nothing(tmp_path / "empty.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_fault_69_any_byte_of_a_zip_changed(tmp_path, method):
    """Read or refused, whatever the byte and the compression; never another exception."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for file in sorted(save(tmp_path / "a", series()).iterdir()):
            archive.write(file, file.name)
    raw, refused = packed.getvalue(), 0
    for at in range(0, len(raw), 29):
        changed = bytearray(raw)
        changed[at] ^= 0xFF
        (tmp_path / "changed.zip").write_bytes(changed)
        with warnings.catch_warnings(action="ignore"):
            try:
                read_volume(tmp_path / "changed.zip")
            except DataError:
                refused += 1
    assert refused > 0


def refusal_of_nothing(path):
    with pytest.raises(DataError) as caught:
        read_volume(path)
    return str(caught.value)


def test_fault_69_any_byte_of_a_header_changed(tmp_path):
    """Read or refused, whatever the byte; never another exception, and nothing of the patient in the words."""
    path = save(tmp_path / "a", series())
    file = path / "IM001"
    raw = file.read_bytes()
    generator = np.random.default_rng(0)
    outcomes = []
    for at in generator.integers(132, len(raw), 250):
        changed = bytearray(raw)
        changed[at] = generator.integers(256)
        file.write_bytes(changed)
        outcomes.append(outcome(path))
    assert set(outcomes) <= {"read", "2", "3"}
    assert min(outcomes.count("read"), len(outcomes) - outcomes.count("read")) > 10


def outcome(path):
    try:
        with warnings.catch_warnings(action="ignore"):
            read_volume(path)
    except RareError as error:
        return str(error) if any(secret in str(error) for secret in SECRETS) else str(error.exit_code)
    return "read"


def test_fault_70_several_series_are_listed_and_none_is_guessed(tmp_path):
    """Refused, listing the UID, description, slices and spacing of each; --series takes one."""
    path = save(tmp_path / "a", series())
    other = series(voxels(slices=3) + 5, series="1.2.99", SeriesDescription="FLAIR 4711 ax", Modality="MR")
    save(path / "b", other)
    said = refusal(path, UsageError)
    assert "1.2.3.4  MR, T1 sagittal, 4 slices, 1.5 x 2 x 3 mm" in said
    assert "1.2.99  MR, FLAIR ax, 3 slices, 1.5 x 2 x 3 mm" in said
    assert "--series 1.2.3.4" in said
    np.testing.assert_array_equal(read_volume(path, series="1.2.3.4").data[0], IN_ORDER)
    assert read_volume(path, series="1.2.99").shape == (COLUMNS, ROWS, 3)
    assert "no such series" in refusal(path, UsageError, series="1.2.3")


def test_fault_70_a_series_that_is_no_volume_says_so_in_the_list(tmp_path):
    """The list says why a series is not a volume."""
    path = save(tmp_path / "a", series())
    save(path / "b", [item for echo in (1, 2) for item in series(series="1.2.99", EchoTime=echo)])
    assert "1.2.99  MR, T1 sagittal, 8 slices, not a volume: several echoes in one series" in refusal(path, UsageError)


def test_a_folder_below_that_links_back_does_not_loop(tmp_path):
    path = save(tmp_path / "a", series())
    (path / "again").symlink_to(path)
    np.testing.assert_array_equal(read_volume(path).data[0], IN_ORDER)


@pytest.mark.parametrize("kind", ["PALETTE COLOR", "RGB"])
def test_colours_are_no_intensities(kind, tmp_path):
    assert "PhotometricInterpretation" in refusal(save(tmp_path / "a", series(PhotometricInterpretation=kind)))


def test_low_values_that_are_bright_are_noted(tmp_path):
    volume = noted(save(tmp_path / "a", series(PhotometricInterpretation="MONOCHROME1")), "low values are the bright ones")
    np.testing.assert_array_equal(volume.data[0], IN_ORDER)
