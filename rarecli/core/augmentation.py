"""Random changes of a training scan: geometry and gamma once at its finest grid, noise at every depth.

All randomness comes from the generator that is handed in, so a sample is a function of (seed, epoch, case) alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rarecli.core.config import AugmentationConfig
from rarecli.core.routing import AS_IS_ANISOTROPY_OCTAVES
from rarecli.core.types import FloatArray, IntArray, Triple

_ELASTIC_KNOTS = 5


def draw_spacing(config: AugmentationConfig, rng: np.random.Generator) -> Triple:
    """Spacing that a training scan is acquired at, per axis, over its own: for half of the scans 1, else much the same along all axes."""
    if not config.spacing_octaves or rng.random() < 0.5:
        return 1.0, 1.0, 1.0
    apart = AS_IS_ANISOTROPY_OCTAVES / 2
    octaves = rng.uniform(-config.spacing_octaves, config.spacing_octaves) + rng.uniform(-apart, apart, 3)
    x, y, z = (float(2**octave) for octave in octaves)
    return x, y, z


def augment(
    image: FloatArray, labels: IntArray, spacing_mm: Triple, depth: int, config: AugmentationConfig, rng: np.random.Generator
) -> tuple[FloatArray, IntArray]:
    """Rotate, scale, shift, bend, flip and change the gamma of image (C, X, Y, Z) and labels (X, Y, Z) alike.

    depth: that of the image's grid; shifts and bends are configured in voxels of depth 0. Interpolation is linear for the image,
    nearest for the labels; beyond the border the last voxel goes on.
    """
    if config.flip:
        flipped = tuple(axis for axis in range(3) if rng.random() < 0.5)
        image, labels = np.flip(image, tuple(axis + 1 for axis in flipped)), np.flip(labels, flipped)
    if rng.random() < config.probability:
        grid = _sampling_grid(labels.shape, spacing_mm, depth, config, rng)
        image = _sample(image, grid, "bilinear")
        labels = _sample(labels[None].astype(np.float32), grid, "nearest")[0].astype(labels.dtype)
    if config.gamma and rng.random() < config.probability:
        image = _change_gamma(image, float(np.exp(rng.uniform(-config.gamma, config.gamma))))
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def random_contrast(config: AugmentationConfig, rng: np.random.Generator) -> tuple[np.float32, np.float32]:
    """Gain and offset for normalised images; one pair for all depths of a sample, so that gateways and encoder see one contrast."""
    if rng.random() >= config.probability:
        return np.float32(1), np.float32(0)
    gain, offset = rng.uniform(1 - config.contrast, 1 + config.contrast), rng.uniform(-config.contrast, config.contrast) / 2
    return np.float32(gain), np.float32(offset)


def add_noise(image: FloatArray, config: AugmentationConfig, rng: np.random.Generator) -> FloatArray:
    """Gaussian noise on a normalised image (C, X, Y, Z); a range of 1 is taken for the unit."""
    if config.noise and rng.random() < config.probability:
        std = np.float32(rng.uniform(0, config.noise))
        image = image + std * rng.standard_normal(image.shape, dtype=np.float32)
    return image


def _sampling_grid(shape: tuple[int, ...], spacing_mm: Triple, depth: int, config: AugmentationConfig, rng: np.random.Generator) -> Tensor:
    """Where each voxel takes its value from: (1, X, Y, Z, 3), in grid_sample's -1..1, last axis (z, y, x)."""
    angles = np.deg2rad(rng.uniform(-config.rotation_degrees, config.rotation_degrees, 3))
    scales = 1 + rng.uniform(-config.scale, config.scale) + rng.uniform(-config.scale, config.scale, 3) / 3
    spacing = np.asarray(spacing_mm)
    # rotated in mm, so that a right angle stays one where voxels are no cubes
    matrix = np.diag(1 / spacing) @ _rotation(angles) @ np.diag(scales * spacing)
    shift = rng.uniform(-config.shift_voxels, config.shift_voxels, 3) / 2**depth
    knots = rng.normal(0, config.elastic_voxels / 2 / 2**depth, (1, 3, *[_ELASTIC_KNOTS] * 3)).astype(np.float32)

    axes = [torch.arange(size, dtype=torch.float32) - (size - 1) / 2 for size in shape]
    centred = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    moved = centred @ torch.from_numpy(matrix.T.astype(np.float32)) + torch.from_numpy(shift.astype(np.float32))
    bend = functional.interpolate(torch.from_numpy(knots), size=shape, mode="trilinear", align_corners=True)
    moved = moved + bend[0].permute(1, 2, 3, 0)
    half = torch.tensor([max(size - 1, 1) / 2 for size in shape])
    return (moved / half).flip(-1)[None]


def _rotation(angles: FloatArray) -> FloatArray:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        first, second = [other for other in range(3) if other != axis]
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _sample(image: FloatArray, grid: Tensor, mode: str) -> FloatArray:
    values = torch.from_numpy(np.array(image, order="C"))[None]
    sampled: FloatArray = functional.grid_sample(values, grid, mode=mode, padding_mode="border", align_corners=True)[0].numpy()
    return sampled


def _change_gamma(image: FloatArray, gamma: float) -> FloatArray:
    """Raise each channel, mapped to 0..1 by its extremes, to the power of gamma; the extremes stay where they are."""
    low = image.min(axis=(1, 2, 3), keepdims=True)
    extent = image.max(axis=(1, 2, 3), keepdims=True) - low
    extent[extent == 0] = 1
    powered: FloatArray = ((image - low) / extent) ** np.float32(gamma) * extent + low
    return powered
