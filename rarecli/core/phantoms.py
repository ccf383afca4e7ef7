"""Phantoms: scans of an object that is defined by formulas, acquired at any spacing and orientation with exact labels.

The object is a bent tube of varying width in two parts, head and tail, that look alike, among distractors of the same
brightness: ellipsoids and straight rods. Smooth tissue, a bias field and noise lie over it. An intensity threshold
cannot tell the tube from the distractors, nor the head from the tail; its shape and place can.

World coordinates are in mm, RAS+, the origin in the centre of the field of view.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from rarecli.core.files import write_json
from rarecli.core.types import FloatArray, Shape, Triple
from rarecli.core.volume import Volume, write_image, write_labels

LABEL_NAMES = ("background", "head", "tail")
_SAMPLE_MM = 0.75
"""Voxels are sampled at least this finely to get partial volumes and majorities."""
_DISTRACTORS = 24
_BRIGHTNESS = 0.3
"""Tube and distractors over the tissue around them."""


@dataclass(frozen=True)
class Phantom:
    """One object. The same seed is the same object, whatever it is acquired with."""

    seed: int
    extent_mm: Triple = (32.0, 32.0, 32.0)
    """The field of view; sizes and places scale with it."""
    num_channels: int = 1
    noise: float = 0.05
    """Standard deviation of the noise per voxel."""

    def acquire(self, spacing_mm: Triple | float = 1.0, orientation: str = "RAS") -> tuple[Volume, Volume]:
        """Scan it: image (C, X, Y, Z) float32 and labels (1, X, Y, Z) uint8 with voxels of `spacing_mm` (along RAS axes).

        A voxel's intensity is the mean over its volume, plus noise; its label the class that fills most of it. The whole
        field of view is covered; array axes point as `orientation` says.
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

    def classes_at(self, points_mm: FloatArray) -> FloatArray:
        """Class of each point (N, 3): 0, 1 (head), 2 (tail). uint8."""
        inside, along = self._tube(points_mm)
        return np.where(inside, np.where(along > self._parameters()["part"], 1, 2), 0).astype(np.uint8)

    def intensities_at(self, points_mm: FloatArray) -> FloatArray:
        """Noiseless intensity of each point (N, 3) in every channel: (C, N)."""
        values = self._parameters()
        scale = np.asarray(self.extent_mm) / 2
        bright = np.logical_or(self._tube(points_mm)[0], self._distractors(points_mm)).astype(np.float64)
        unit = points_mm / scale
        tissue = 0.5 + 0.06 * sum(np.cos(unit @ wave + phase) for wave, phase in zip(values["waves"], values["phases"], strict=True))
        bias = 1 + unit @ values["bias"]
        channels = [(tissue + contrast * _BRIGHTNESS * bright) * bias for contrast in values["contrasts"]]
        return np.stack(channels)

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

    def _tube(self, points_mm: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Inside or not, and the place along the tube from -1 (tail) to 1 (head), of each point."""
        values = self._parameters()
        unit = points_mm / (np.asarray(self.extent_mm) / 2) - values["centre"]
        along = unit[:, 1] / values["length"]
        inner = np.clip(along, -1, 1)
        middle_x = values["bend"][0] * (inner**2 - 0.4)
        middle_z = values["bend"][1] * 0.5 * np.sin(2.2 * inner)
        radius = values["width"] * (1 + 0.35 * inner) * np.sqrt(np.maximum(0, 1 - inner**4))
        distance = np.hypot(unit[:, 0] - middle_x, unit[:, 2] - middle_z)
        return (distance < radius) & (np.abs(along) < 1), along

    def _distractors(self, points_mm: FloatArray) -> FloatArray:
        """Ellipsoids (every third long and thin: a rod) that stay clear of the tube."""
        values = self._parameters()
        half = np.asarray(self.extent_mm) / 2
        inside = np.zeros(len(points_mm), dtype=bool)
        placed = 0
        for place, size in zip(values["distractor_places"], values["distractor_sizes"], strict=True):
            size = size * np.array([0.5, 0.5, 3.0]) if placed % 3 == 2 else size
            around = place + size * _SPHERE
            if self._tube(around * half)[0].any():
                continue
            inside |= (((points_mm / half - place) / size) ** 2).sum(axis=1) < 1
            placed += 1
            if placed == _DISTRACTORS:
                break
        return inside

    def _average(self, shape: Shape, spacing: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean intensity (C, X, Y, Z) and majority class (X, Y, Z) of every voxel from points spread evenly inside it."""
        num = [max(2, int(np.ceil(step / _SAMPLE_MM))) for step in spacing]
        axes = [(np.arange(size * n) + 0.5) / n * step - size * step / 2 for size, n, step in zip(shape, num, spacing, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        blocks = (shape[0], num[0], shape[1], num[1], shape[2], num[2])
        intensities = self.intensities_at(points).reshape(-1, *blocks).mean(axis=(2, 4, 6))
        classes = self.classes_at(points).reshape(blocks)
        shares = np.stack([(classes == index).mean(axis=(1, 3, 5)) for index in range(len(LABEL_NAMES))])
        return intensities, shares.argmax(axis=0).astype(np.uint8)


_DIRECTIONS = np.stack(np.meshgrid(*[np.linspace(-1, 1, 7)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
_SPHERE = _DIRECTIONS[(_DIRECTIONS**2).sum(axis=1) <= 1] * 1.15
"""Offsets that fill a ball a little larger than the distractor: none of them may lie in the tube."""


def write_phantoms(
    root: Path, seeds: range, spacing_mm: float = 1.0, *, extent_mm: Triple = (32.0, 32.0, 32.0), num_channels: int = 1
) -> list[str]:
    """Write a labelled dataset in the MSD layout, one phantom per seed; returns the case names."""
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
