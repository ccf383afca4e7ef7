"""DICOM segmentations, written with highdicom and opened with pydicom alone and with SimpleITK."""

import json
import sys
from importlib import resources

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import yaml
from dicom_files import COLUMNS, ORIGIN, PATIENT, ROWS, SECRETS, SLICES, STEP, STUDY, ct, enhanced, normal, save, series, voxels
from pydicom import dcmread
from pydicom.sr._concepts_dict import concepts
from pydicom.uid import SegmentationStorage
from stand_in import Octants

from rarecli.core.errors import DataError, EnvironmentFault, UsageError
from rarecli.core.imaging.formats.dicom_seg import require_highdicom, write_segmentation
from rarecli.core.imaging.formats.segment_codes import Code, SegmentCode, load_codes, segments_of
from rarecli.core.imaging.volume import read_volume
from rarecli.core.prediction.predict import PredictOptions, predict

NAMES, VALUES = ("background", "Anterior", "Posterior", "left kidney", "blob"), (0, 1, 2, 7, 40)
SEGMENTS = segments_of("hippocampus", NAMES, VALUES)
OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)


def labels_for(volume, seed=0):
    """Every value, without two like planes or rows."""
    return np.random.default_rng(seed).choice(np.array([*VALUES, 0, 0]), volume.shape)


def write(path, scan, labels=None, **options):
    volume = read_volume(scan)
    labels = labels_for(volume) if labels is None else labels
    write_segmentation(path, labels, volume.header, SEGMENTS, "hippocampus", **options)
    return volume, labels


def planes_of(path):
    """The segment numbers (rows, columns) by the position of each plane, and by the instance and frame it refers to."""
    dataset = dcmread(path)
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    by_place, by_source = {}, {}
    for frame, plane in zip(dataset.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        place = tuple(float(value) for value in frame.PlanePositionSequence[0].ImagePositionPatient)
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        key = source.ReferencedSOPInstanceUID, int(source.get("ReferencedFrameNumber", 1))
        for planes, where in ((by_place, place), (by_source, key)):
            planes.setdefault(where, np.zeros(plane.shape, int))
            assert not (planes[where][plane > 0]).any()
            planes[where] += number * plane
    return dataset, by_place, by_source


def values_of(numbers):
    """Label values of segment numbers, which count from 1."""
    return np.array(VALUES)[numbers]


@pytest.mark.parametrize("orientation", [(1.0, 0, 0, 0, 1, 0), (-1.0, 0, 0, 0, 1, 0), (0, 1.0, 0, 0, 0, -1), OBLIQUE])
def test_a_round_trip_is_exact_to_the_voxel(orientation, tmp_path):
    images = series(orientation=orientation)
    scan = save(tmp_path / "scan", images[::-1])
    _, labels = write(tmp_path / "labels.dcm", scan)
    dataset, by_place, by_source = planes_of(tmp_path / "labels.dcm")
    assert dataset.SOPClassUID == SegmentationStorage
    assert len(by_place) == len(by_source) == SLICES
    for number, item in enumerate(images):
        np.testing.assert_array_equal(values_of(by_source[item.SOPInstanceUID, 1]), labels[:, :, number].T)
        place = min(by_place, key=lambda place: np.abs(np.array(place) - ORIGIN - number * STEP * normal(orientation)).max())
        np.testing.assert_allclose(place, item.ImagePositionPatient, atol=1e-4)
        np.testing.assert_array_equal(values_of(by_place[place]), labels[:, :, number].T)
    plane = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    np.testing.assert_allclose(plane, orientation, atol=1e-6)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_a_segmentation_of_an_enhanced_image_refers_to_its_frames(order, tmp_path):
    source = enhanced(order=order)
    _, labels = write(tmp_path / "labels.dcm", save(tmp_path / "scan", [source]))
    _, by_place, by_source = planes_of(tmp_path / "labels.dcm")
    for frame, number in enumerate(order, start=1):
        np.testing.assert_array_equal(values_of(by_source[source.SOPInstanceUID, frame]), labels[:, :, number].T)
        np.testing.assert_array_equal(values_of(by_place[-10.0, 20.0, 30.0 + STEP * number]), labels[:, :, number].T)


def test_simpleitk_opens_it(tmp_path):
    _, labels = write(tmp_path / "labels.dcm", save(tmp_path / "scan", series()))
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "labels.dcm")))
    assert frames.shape == (4 * SLICES, ROWS, COLUMNS)
    for frame, plane in zip(dcmread(tmp_path / "labels.dcm").PerFrameFunctionalGroupsSequence, frames, strict=True):
        value = VALUES[frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        number = round((frame.PlanePositionSequence[0].ImagePositionPatient[2] - ORIGIN[2]) / STEP)
        np.testing.assert_array_equal(plane > 0, value == labels[:, :, number].T)


def test_labels_of_a_tilted_series_lie_on_its_slices(tmp_path):
    """One pixel a slice: the straight grid is the slices, moved by whole pixels."""
    images = series(step=(0, 2, 3), **ct())
    scan = save(tmp_path / "scan", images)
    with pytest.warns(UserWarning, match="gantry tilt"):
        volume = read_volume(scan)
    labels = labels_for(volume)
    write_segmentation(tmp_path / "labels.dcm", labels, volume.header, SEGMENTS, "hippocampus")
    _, by_place, by_source = planes_of(tmp_path / "labels.dcm")
    for number, item in enumerate(images):
        np.testing.assert_array_equal(values_of(by_source[item.SOPInstanceUID, 1]), labels[:, number : number + ROWS, number].T)
        assert (-10.0, 20.0 + 2 * number, 30.0 + 3 * number) in by_place


def test_segments_have_names_codes_and_where_they_came_from(tmp_path):
    images = series()
    write(tmp_path / "labels.dcm", save(tmp_path / "scan", images))
    dataset = dcmread(tmp_path / "labels.dcm")
    found = [
        (item.SegmentNumber, item.SegmentLabel, item.SegmentedPropertyTypeCodeSequence[0].CodeValue, item.SegmentAlgorithmType)
        for item in dataset.SegmentSequence
    ]
    assert found == [
        (1, "Anterior", "5366008", "AUTOMATIC"),
        (2, "Posterior", "5366008", "AUTOMATIC"),
        (3, "left kidney", "64033007", "AUTOMATIC"),
        (4, "blob", "85756007", "AUTOMATIC"),
    ]
    modifiers = [
        item.SegmentedPropertyTypeCodeSequence[0].get("SegmentedPropertyTypeModifierCodeSequence") for item in dataset.SegmentSequence
    ]
    assert [modifier and modifier[0].CodeMeaning for modifier in modifiers] == ["Anterior", "Posterior", "Left", None]
    referenced = dataset.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == "1.2.3.4"
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == {item.SOPInstanceUID for item in images}
    assert dataset.FrameOfReferenceUID == "1.2.5"
    assert dataset.StudyInstanceUID == "1.2.3"
    assert {str(dataset[name].value) for name in PATIENT} == set(PATIENT.values())
    assert dataset.AccessionNumber == STUDY["AccessionNumber"]


def test_anonymise_leaves_the_patient_and_the_study_out(tmp_path):
    scan = save(tmp_path / "scan", series(PatientComments="Muster", OtherPatientIDs="P-4711", PatientAge="040Y", InstitutionName="Muster"))
    write(tmp_path / "labels.dcm", scan, anonymous=True)
    content = (tmp_path / "labels.dcm").read_bytes().decode("latin-1")
    assert not [secret for secret in SECRETS if secret in content]
    dataset = dcmread(tmp_path / "labels.dcm")
    assert dataset.PatientIdentityRemoved == "YES"
    assert dataset.PatientName == ""
    assert "PatientAge" not in dataset
    write(tmp_path / "named.dcm", scan)
    content = (tmp_path / "named.dcm").read_bytes().decode("latin-1")
    assert [secret for secret in SECRETS if secret in content]  # so the search finds what is there


def test_labels_of_background_alone_are_written(tmp_path):
    scan = save(tmp_path / "scan", series())
    write(tmp_path / "labels.dcm", scan, np.zeros((COLUMNS, ROWS, SLICES), np.uint8))
    assert not dcmread(tmp_path / "labels.dcm").pixel_array.any()


def test_a_header_without_type_2_attributes_suffices(tmp_path):
    without = dict.fromkeys([*PATIENT, "AccessionNumber", "ReferringPhysicianName", "StudyID", "StudyDate", "StudyTime"])
    write(tmp_path / "labels.dcm", save(tmp_path / "scan", series(**without)))
    assert dcmread(tmp_path / "labels.dcm").PatientName == ""


@pytest.mark.parametrize("name", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_a_header_without_its_uids_is_refused(name, tmp_path):
    with pytest.raises(DataError, match="cannot refer") as caught:
        write(tmp_path / "labels.dcm", save(tmp_path / "scan", series(**{name: None})))
    assert caught.value.field == name
    assert not (tmp_path / "labels.dcm").exists()


def test_predict_writes_segmentations_and_says_which_labels_have_no_code(tmp_path, capsys):
    from rarecli.commands.console import Console

    scan = save(tmp_path / "scan", series())
    options = PredictOptions(format="dicom-seg", anonymise=True, probabilities=True)
    predict([scan], Octants(), tmp_path / "out", options, Console())
    assert "no code for octant 1, octant 2" in capsys.readouterr().err
    assert {item.name for item in (tmp_path / "out").glob("scan*")} == {"scan.dcm", "scan.json", "scan_probabilities.nii.gz"}
    (tmp_path / "codes.yaml").write_text("octant 1: {category: [A, 99X, a], type: [B, 99X, b]}\n")
    predict([scan], Octants(), tmp_path / "one.dcm", PredictOptions(codes=tmp_path / "codes.yaml"))
    _, by_place, _ = planes_of(tmp_path / "one.dcm")
    # DICOM's first voxel is right, anterior and inferior here: 1 + 1 + 2
    assert by_place[-10.0, 20.0, 30.0][0, 0] == 4
    assert by_place[-10.0, 20.0, 30.0 + 3 * STEP][-1, -1] == 5
    first = dcmread(tmp_path / "one.dcm").SegmentSequence[0]
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "B"


def test_resume_notices_other_codes(tmp_path):
    scan, codes = save(tmp_path / "scan", series()), tmp_path / "codes.json"
    for code in ("B", "C"):
        codes.write_text(json.dumps({"segments": {"octant 1": {"category": ["A", "99X", "a"], "type": [code, "99X", "b"]}}}))
        predict([scan], Octants(), tmp_path / "out", PredictOptions(format="dicom-seg", codes=codes, resume=True))
        first = dcmread(tmp_path / "out" / "scan.dcm").SegmentSequence[0]
        assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == code


def test_names_are_found_in_any_spelling():
    segments = segments_of("hippocampus-paper", ("background", "ANTERIOR", "Left_Kidney", "tail"), (0, 1, 2, 3))
    assert segments[0].code.modifier == Code("255549009", "SCT", "Anterior")
    assert segments[1].code.type == Code("64033007", "SCT", "Kidney")
    assert segments[2].code is None
    assert segments_of("other", ("background", "anterior"), (0, 1))[0].code is None


def test_every_code_of_the_table_is_one_of_the_standard():
    """pydicom lists the codes of DICOM's context groups, with their meanings."""
    meanings: dict[str, set[str]] = {}
    for names in concepts["SCT"].values():
        for code, (meaning, _) in names.items():
            meanings.setdefault(code, set()).add(meaning.lower())
    table = yaml.safe_load(resources.files("rarecli.codes").joinpath("segments.yaml").read_text())["segments"]
    assert len(table) > 40
    for name, parts in table.items():
        for code, scheme, meaning in parts.values():
            assert scheme == "SCT"
            assert meaning.lower() in meanings[str(code)], name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a", "not a table of codes"),
        ("{", "not valid YAML or JSON"),
        ("liver: 3", "not the codes of a label"),
        ("liver: {type: [1, SCT, Liver]}", "not the codes of a label"),
        ("liver: {category: [1, SCT, x], type: [1, SCT, x], colour: red}", "not the codes of a label"),
        ("liver: {category: [1, SCT, x], type: [1, SCT]}", "not a code"),
        ("liver: {category: [1, SCT, x], type: ['12345678901234567', SCT, x]}", "not a code"),
        ("liver: {category: [1, SCT, x], type: [1.5, SCT, x]}", "not a code"),
    ],
)
def test_a_table_that_is_none_is_refused(text, words, tmp_path):
    path = tmp_path / "codes.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        load_codes(path)
    assert caught.value.path == path
    path.write_text("Liver: {category: [1, SCT, x], type: [2, SCT, y]}")
    assert load_codes(path) == {"liver": SegmentCode(Code("1", "SCT", "x"), Code("2", "SCT", "y"))}
    with pytest.raises(UsageError, match="cannot be read"):
        load_codes(tmp_path / "none.yaml")


def test_a_missing_package_names_its_extra(monkeypatch, tmp_path):
    scan = save(tmp_path / "scan", series())
    monkeypatch.setitem(sys.modules, "highdicom", None)
    for action in (require_highdicom, lambda: predict([scan], Octants(), tmp_path / "out", PredictOptions(format="dicom-seg"))):
        with pytest.raises(EnvironmentFault, match="highdicom is not installed") as caught:
            action()
        assert "rare-unet[dicom]" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_several_enhanced_images_are_refused(tmp_path):
    halves = [enhanced(voxels()[:2]), enhanced(voxels()[2:])]
    for number, frame in enumerate(halves[1].PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = (ORIGIN + np.array([0, 0, STEP * (number + 2)])).tolist()
    scan = save(tmp_path / "scan", halves)
    np.testing.assert_array_equal(read_volume(scan).data[0], voxels().transpose(2, 1, 0))
    with pytest.raises(DataError, match="several enhanced images"):
        write(tmp_path / "labels.dcm", scan)


@pytest.mark.parametrize("anonymous", [False, True])
def test_a_series_without_a_thickness_and_with_a_wrong_spacing(tmp_path, anonymous):
    """The positions say how far the slices lie apart."""
    scan = save(tmp_path / "scan", series(SliceThickness=None, SpacingBetweenSlices=99))
    write(tmp_path / "labels.dcm", scan, anonymous=anonymous)
    measures = dcmread(tmp_path / "labels.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == STEP
    assert measures.get("SliceThickness") is None


def test_an_enhanced_image_with_a_wrong_spacing_and_private_elements(tmp_path):
    source = enhanced()
    measures = source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = 99
    measures.private_block(0x0009, "Muster", create=True).add_new(0x10, "LO", "Erika")
    scan = save(tmp_path / "scan", [source])
    write(tmp_path / "labels.dcm", scan, anonymous=True)
    content = (tmp_path / "labels.dcm").read_bytes().decode("latin-1")
    assert not [secret for secret in SECRETS if secret in content]
    assert dcmread(tmp_path / "labels.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices == STEP


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PatientBirthDate", "07.11.1961"),
        ("PatientBirthDate", "00000000"),
        ("StudyDate", "2001-02-03"),
        ("StudyTime", "99:99"),
        ("PatientSex", "Female"),
    ],
)
def test_what_the_standard_does_not_know_of_a_patient_becomes_empty(name, value, tmp_path):
    scan = save(tmp_path / "scan", series(**{name: value}))
    write(tmp_path / "labels.dcm", scan)
    dataset = dcmread(tmp_path / "labels.dcm")
    assert not dataset[name].value
    assert dataset.PatientID == PATIENT["PatientID"]


def test_errors_of_highdicom_quote_no_header(tmp_path, monkeypatch):
    scan = read_volume(save(tmp_path / "scan", series()))

    def fail(*_, **__):
        raise ValueError("Muster^Erika")

    monkeypatch.setattr("highdicom.seg.Segmentation", fail)
    with pytest.raises(DataError, match="found: ValueError") as caught:
        write_segmentation(tmp_path / "labels.dcm", labels_for(scan), scan.header, SEGMENTS, "hippocampus")
    assert "Muster" not in str(caught.value)


@pytest.mark.parametrize("charset", [None, "ISO_IR 100", "ISO_IR 192"])
def test_names_in_any_language(charset, tmp_path):
    patient = "M\u00fcster^J\u00f6rg" if charset else "Muster^Erika"
    scan = read_volume(save(tmp_path / "scan", series(SpecificCharacterSet=charset, PatientName=patient)))
    names = ("background", "\u6d77\u9a6c", "H\u00fcfte", "left kidney", "blob")
    segments = segments_of("Mod\u00e8le \u6d77", names, VALUES)
    write_segmentation(tmp_path / "labels.dcm", labels_for(scan), scan.header, segments, "Mod\u00e8le \u6d77")
    dataset = dcmread(tmp_path / "labels.dcm")
    assert [item.SegmentLabel for item in dataset.SegmentSequence] == list(names[1:])
    assert (dataset.PatientName, dataset.ManufacturerModelName) == (patient, "Mod\u00e8le \u6d77")


def test_images_that_share_a_uid_are_refused(tmp_path):
    images = series(SOPInstanceUID="1.2.3.4.5")
    scan = read_volume(save(tmp_path / "scan", images))
    assert scan.shape == (COLUMNS, ROWS, SLICES)
    with pytest.raises(DataError, match="share a UID"):
        write_segmentation(tmp_path / "labels.dcm", labels_for(scan), scan.header, SEGMENTS, "hippocampus")
