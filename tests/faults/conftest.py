from pathlib import Path

import pytest
from processes import draw_nothing

from rarecli.core.data.phantoms import Phantom
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.imaging.volume import write_image, write_labels
from rarecli.core.training import progress_report


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip figures: drawing takes longer than the rest of these trainings."""
    monkeypatch.setattr(progress_report, "draw_progress", draw_nothing)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven prepared cases of 16 x 16 x 16 voxels, for two levels; a step takes about ten milliseconds."""
    root = tmp_path_factory.mktemp("small")
    for seed in range(7):
        image, labels = Phantom(seed, (16.0, 16.0, 16.0)).acquire(1.0)
        write_image(root / "data" / "images" / f"case{seed}.nii.gz", image.data[0], image)
        write_labels(root / "data" / "labels" / f"case{seed}.nii.gz", labels.data[0], labels)
    preprocess(root / "data", root / "prepared", PreprocessOptions(num_levels=2, num_jobs=1))
    return root / "prepared"
