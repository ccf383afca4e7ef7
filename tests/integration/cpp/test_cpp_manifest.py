"""C++ and Python follow the same manifest, whatever it says."""

import nibabel as nib
import numpy as np
import pytest
from cpp_consumer import infer
from manifest_changes import CHANGES, changed_and_before, scan_of

from rarecli import Predictor, Volume
from rarecli.core.imaging.volume import write_image

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("field", CHANGES)
def test_c_plus_plus_and_python_read_the_field_alike(release, bundle, tmp_path, field):
    changed, _ = changed_and_before(bundle, tmp_path, field)
    data, spacing = scan_of(CHANGES[field][2])
    scan = Volume(data, np.diag([*spacing, 1.0]))
    write_image(tmp_path / "scan.nii.gz", data[0], scan)
    done = infer(release, tmp_path / "scan.nii.gz", changed, tmp_path / "labels.nii.gz")
    assert done.returncode == 0, done.stderr
    with Predictor(changed, backend="openvino") as predictor:
        prediction = predictor.predict(tmp_path / "scan.nii.gz", probabilities=True)
    worse, best = np.sort(prediction.probabilities, axis=0)[-2:]
    differs = np.asarray(nib.load(tmp_path / "labels.nii.gz").dataobj) != prediction.labels
    assert np.count_nonzero(differs & (best - worse > 1e-3)) == 0
