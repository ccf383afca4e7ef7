"""Phantoms: scans of an object defined by formulas, acquired at any spacing and orientation with exact labels.

The object is a bent tube of varying width in two parts, head and tail, that look alike, among distractors of the same
brightness: ellipsoids and straight rods. Smooth tissue, a bias field and noise are added. An intensity threshold
cannot separate the tube from the distractors, nor the head from the tail; shape and position can.

World coordinates are in mm, RAS+, with the origin at the centre of the field of view.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from rarecli.core.imaging.volume import Volume, write_image, write_labels
from rarecli.core.jobs.files import write_json
from rarecli.core.types import FloatArray, IntArray, Shape, Triple

LABEL_NAMES = ("background", "head", "tail")
_SAMPLE_MM = 0.75
"""Sampling distance within a voxel, at most, to compute partial volumes and majorities."""
_DISTRACTORS = 24
_BRIGHTNESS = 0.3
"""Brightness of tube and distractors above the surrounding tissue."""
_RIM, _RIM_DARKNESS = 0.08, 0.6
"""Only the tube has a thin dark rim, its width a share of half the field of view: a detail that coarse scans lose."""


@dataclass(frozen=True)
class Phantom:
    """One object. The same seed gives the same object at every spacing and orientation."""

    seed: int
    extent_mm: Triple = (32.0, 32.0, 32.0)
    """The field of view; sizes and positions scale with it."""
    num_channels: int = 1
    noise: float = 0.05
    """Standard deviation of the noise per voxel."""

    def acquire(self, spacing_mm: Triple | float = 1.0, orientation: str = "RAS") -> tuple[Volume, Volume]:
        """Return image (C, X, Y, Z) float32 and labels (1, X, Y, Z) uint8 with voxels of `spacing_mm` (along RAS axes).

        The intensity of a voxel is the mean over its volume plus noise; its label is the class that fills most of it. The
        scan covers the whole field of view; `orientation` gives the directions of the array axes.
        """
        spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=np.float64), 3)
        shape: Shape = tuple(max(1, round(extent / step)) for extent, step in zip(self.extent_mm, spacing, strict=True))
        image, labels = self._average(shape, spacing)
        rng = np.random.default_rng([self.seed, 1, *(int(s * 1000) for s in spacing)])
        image = image + rng.normal(0, self.noise, image.shape)
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing
        transform = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation))
        turned = np.stack([_turn(channel, transform) for channel in image.astype(np.float32)])
        affine = affine @ inv_ornt_aff(transform, shape)
        return Volume(turned, affine), Volume(_turn(labels, transform)[None], affine)

    def classes_at(self, x_mm: FloatArray, y_mm: FloatArray, z_mm: FloatArray) -> IntArray:
        """Return the class of points: 0, 1 (head), 2 (tail); uint8. Coordinates are arrays that broadcast against each other."""
        margin, along = self._tube(x_mm, y_mm, z_mm)
        return np.where(margin > 0, np.where(along > self._parameters()["part"], 1, 2), 0).astype(np.uint8)

    def intensities_at(self, x_mm: FloatArray, y_mm: FloatArray, z_mm: FloatArray) -> FloatArray:
        """Return the noiseless intensity of points in every channel: (C, ...). Coordinates are arrays that broadcast against each other."""
        values = self._parameters()
        margin, _ = self._tube(x_mm, y_mm, z_mm)
        bright = np.logical_or(margin > 0, self._distractors(x_mm, y_mm, z_mm)).astype(np.float64)
        bright -= _RIM_DARKNESS * ((margin <= 0) & (margin > -_RIM))
        x, y, z = self._unit(x_mm, y_mm, z_mm)
        waves = zip(values["waves"], values["phases"], strict=True)
        tissue = 0.5 + 0.06 * sum(np.cos(wave[0] * x + wave[1] * y + wave[2] * z + phase) for wave, phase in waves)
        bias = 1 + values["bias"][0] * x + values["bias"][1] * y + values["bias"][2] * z
        return np.stack([(tissue + contrast * _BRIGHTNESS * bright) * bias for contrast in values["contrasts"]])

    def _unit(self, *coordinates_mm: FloatArray) -> list[FloatArray]:
        """Return coordinates as shares of half the field of view: -1 to 1."""
        return [np.asarray(c) / (extent / 2) for c, extent in zip(coordinates_mm, self.extent_mm, strict=True)]

    def _parameters(self) -> dict[str, FloatArray]:
        rng = np.random.default_rng([self.seed, 0])
        return {
            "centre": rng.uniform(-0.1, 0.1, 3),
            "bend": rng.uniform(0.15, 0.4, 2),
            "length": rng.uniform(0.75, 0.88, 1),
            "width": rng.uniform(0.34, 0.42, 1),
            "part": rng.uniform(-0.05, 0.15, 1),
            "bias": rng.uniform(-0.12, 0.12, 3),
            "waves": rng.normal(0, 3, (4, 3)),
            "phases": rng.uniform(0, 2 * np.pi, 4),
            "contrasts": np.array([1.0, *np.linspace(-0.8, 0.6, self.num_channels)])[: self.num_channels],
            "distractor_places": rng.uniform(-0.95, 0.95, (200, 3)),
            "distractor_sizes": rng.uniform(0.12, 0.36, (200, 3)),
        }

    def _tube(self, x_mm: FloatArray, y_mm: FloatArray, z_mm: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the depth of points inside the tube (negative outside), and their position along it, -1 (tail) to 1 (head)."""
        values = self._parameters()
        x, y, z = (c - centre for c, centre in zip(self._unit(x_mm, y_mm, z_mm), values["centre"], strict=True))
        along = y / values["length"]
        inner = np.clip(along, -1, 1)
        middle_x = values["bend"][0] * (inner**2 - 0.4)
        middle_z = values["bend"][1] * 0.5 * np.sin(2.2 * inner)
        radius = values["width"] * (1 + 0.35 * inner) * np.sqrt(np.maximum(0, 1 - inner**4))
        return radius - np.hypot(x - middle_x, z - middle_z), along

    def _distractors(self, x_mm: FloatArray, y_mm: FloatArray, z_mm: FloatArray) -> FloatArray:
        """Return whether points lie in an ellipsoid (every third is long and thin: a rod). None of the ellipsoids touches the tube."""
        values = self._parameters()
        half = np.asarray(self.extent_mm) / 2
        x, y, z = self._unit(x_mm, y_mm, z_mm)
        inside = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=bool)
        placed = 0
        for place, size in zip(values["distractor_places"], values["distractor_sizes"], strict=True):
            size = size * np.array([0.5, 0.5, 3.0]) if placed % 3 == 2 else size
            around = (place + size * _BALL) * half
            if (self._tube(*around.T)[0] > -_RIM).any():
                continue
            inside |= sum(((c - middle) / extent) ** 2 for c, middle, extent in zip((x, y, z), place, size, strict=True)) < 1
            placed += 1
            if placed == _DISTRACTORS:
                break
        return inside

    def _average(self, shape: Shape, spacing: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return mean intensity (C, X, Y, Z) and majority class (X, Y, Z) of every voxel, from points spread evenly inside it."""
        num = [max(2, int(np.ceil(step / _SAMPLE_MM))) for step in spacing]
        axes = [(np.arange(size * n) + 0.5) / n * step - size * step / 2 for size, n, step in zip(shape, num, spacing, strict=True)]
        points = np.ix_(*axes)
        blocks = (shape[0], num[0], shape[1], num[1], shape[2], num[2])
        intensities = self.intensities_at(*points).reshape(-1, *blocks).mean(axis=(2, 4, 6))
        classes = self.classes_at(*points).reshape(blocks)
        shares = np.stack([(classes == index).mean(axis=(1, 3, 5)) for index in range(len(LABEL_NAMES))])
        return intensities, shares.argmax(axis=0).astype(np.uint8)


_CUBE = np.stack(np.meshgrid(*[np.linspace(-1, 1, 7)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
_BALL = _CUBE[(_CUBE**2).sum(axis=1) <= 1] * 1.15
"""Offsets that fill a ball slightly larger than a distractor; none of them may lie in the tube."""


def write_phantoms(
    root: Path, seeds: range, spacing_mm: float = 1.0, *, extent_mm: Triple = (32.0, 32.0, 32.0), num_channels: int = 1
) -> list[str]:
    """Write a labelled dataset in the MSD layout, one phantom per seed. Return the names of the cases."""
    names = []
    for seed in seeds:
        name = f"phantom_{seed:03d}"
        image, labels = Phantom(seed, extent_mm, num_channels).acquire(spacing_mm)
        write_image(root / "imagesTr" / f"{name}.nii.gz", image.data if num_channels > 1 else image.data[0], image)
        write_labels(root / "labelsTr" / f"{name}.nii.gz", labels.data[0], labels)
        names.append(name)
    write_json(
        root / "dataset.json",
        {
            "name": "Phantoms",
            "modality": {str(index): f"channel {index}" for index in range(num_channels)},
            "labels": {str(index): name for index, name in enumerate(LABEL_NAMES)},
            "numTraining": len(names),
            "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
        },
    )
    return names


def _turn(array: FloatArray, transform: FloatArray) -> FloatArray:
    return np.ascontiguousarray(apply_orientation(array, transform))
