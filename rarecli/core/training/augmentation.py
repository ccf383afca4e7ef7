"""Random changes of training scans: geometry and gamma once on their finest grid, contrast once, noise at every depth.

`draw_changes` first draws all changes of a sample as plain numbers, from the generator that it is given, so they are the same in any
process. The changes are then applied to several samples at once, on any device: images (B, C, X, Y, Z) and labels (B, X, Y, Z), float32,
B samples of one shape. Nothing here synchronises with the device, and no sample depends on the others.

Decisions: docs/decisions/0003-own-loss-and-augmentation.md, docs/decisions/0015-augmentation-on-the-device.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rarecli.core.config.geometry import is_isotropic
from rarecli.core.config.train_config import AugmentationConfig, TrainConfig
from rarecli.core.imaging.routing import AS_IS_ANISOTROPY_OCTAVES
from rarecli.core.types import Entry, FloatArray, Triple

_ELASTIC_KNOTS = 5
_SHARE_ON_THE_GRID = 0.3
"""Share of the thick views that lie on an entry's grid exactly."""
_SHARE_OF_ANY = 0.2
"""Share of the thick views whose axes are drawn independently."""


@dataclass(frozen=True)
class Motion:
    """Where each voxel takes its value from: `matrix` (3, 3) times its position, plus `shift` (3,), plus `bend`.

    Positions are in voxels, relative to the centre. bend: (3, K, K, K), at knots from corner to corner, linear between them.
    """

    matrix: FloatArray
    shift: FloatArray
    bend: FloatArray


@dataclass(frozen=True)
class Changes:
    """The changes of one sample."""

    flips: tuple[bool, bool, bool] = (False, False, False)
    motion: Motion | None = None
    gamma: float = 1.0
    gain: float = 1.0
    offset: float = 0.0
    """`gain` and `offset` change the contrast of normalised images. All depths share them, so gateways and encoder see one contrast."""
    noise: tuple[float, ...] = ()
    """Standard deviation of the noise at each depth, in units of normalised images."""
    noise_seed: int = 0


def draw_spacing(config: AugmentationConfig, rng: np.random.Generator) -> Triple:
    """Draw the spacing to resample training scans to, per axis, relative to their own: 1 half of the time, else similar along all axes."""
    if not config.spacing_octaves or rng.random() < 0.5:
        return 1.0, 1.0, 1.0
    apart = AS_IS_ANISOTROPY_OCTAVES / 2
    octaves = rng.uniform(-config.spacing_octaves, config.spacing_octaves) + rng.uniform(-apart, apart, 3)
    x, y, z = (float(2**octave) for octave in octaves)
    return x, y, z


def draw_spacing_per_axis(config: AugmentationConfig, rng: np.random.Generator) -> Triple:
    """Draw a spacing like `draw_spacing` whose axes are similar in the plane only, or nowhere."""
    if not config.spacing_octaves or rng.random() < _SHARE_ON_THE_GRID:
        return 1.0, 1.0, 1.0
    octaves = rng.uniform(-config.spacing_octaves, config.spacing_octaves, 3)
    if rng.random() < 0.5:
        apart = AS_IS_ANISOTROPY_OCTAVES / 2
        in_plane = octaves[0] + rng.uniform(-apart, apart, 3)
        slices = int(rng.integers(3))
        octaves = np.where(np.arange(3) == slices, octaves, in_plane)
    x, y, z = (float(2**octave) for octave in octaves)
    return x, y, z


def draw_thick_entry(depth: int, num_depths: int, rng: np.random.Generator) -> Entry:
    """Draw an entry whose axes differ, none finer than `depth`: mostly one coarser axis of any direction, else any depth per axis."""
    deepest = num_depths - 1
    if rng.random() < _SHARE_OF_ANY:
        x, y, z = (int(value) for value in rng.integers(depth, num_depths, 3))
        if not is_isotropic((x, y, z)):
            return x, y, z
    finer = np.arange(depth, deepest)
    weights = 0.7**finer
    in_plane = int(rng.choice(finer, p=weights / weights.sum()))
    slices, through = int(rng.integers(3)), int(rng.integers(in_plane + 1, num_depths))
    x, y, z = (through if axis == slices else in_plane for axis in range(3))
    return x, y, z


def draw_lost(config: TrainConfig, rng: np.random.Generator) -> Entry:
    """Draw the resolution that the baseline's augmentation takes away: the same along all axes, or in a thick view along one axis more."""
    lost = int(rng.integers(0, config.num_depths))
    if not config.thick_views or lost == config.num_depths - 1 or rng.random() < 0.5:
        return lost, lost, lost
    return draw_thick_entry(lost, config.num_depths, rng)


def draw_changes(spacing_mm: Triple, depth: int, num_depths: int, config: AugmentationConfig, rng: np.random.Generator) -> Changes:
    """Draw the changes of a sample whose finest grid is that of `depth`. Shifts and bends are configured in voxels of depth 0."""
    x, y, z = (bool(config.flip and rng.random() < 0.5) for _ in range(3))
    motion = _draw_motion(spacing_mm, depth, config, rng) if rng.random() < config.probability else None
    gamma = float(np.exp(rng.uniform(-config.gamma, config.gamma))) if rng.random() < config.probability else 1.0
    gain, offset = 1.0, 0.0
    if rng.random() < config.probability:
        gain = float(rng.uniform(1 - config.contrast, 1 + config.contrast))
        offset = float(rng.uniform(-config.contrast, config.contrast) / 2)
    noise = tuple(float(rng.uniform(0, config.noise) * (rng.random() < config.probability)) for _ in range(num_depths))
    return Changes((x, y, z), motion, gamma, gain, offset, noise, int(rng.integers(2**62)))


def _draw_motion(spacing_mm: Triple, depth: int, config: AugmentationConfig, rng: np.random.Generator) -> Motion:
    angles = np.deg2rad(rng.uniform(-config.rotation_degrees, config.rotation_degrees, 3))
    scales = 1 + rng.uniform(-config.scale, config.scale) + rng.uniform(-config.scale, config.scale, 3) / 3
    spacing = np.asarray(spacing_mm)
    # rotate in mm, so that right angles stay right angles where voxels are anisotropic
    matrix = np.diag(1 / spacing) @ _rotation(angles) @ np.diag(scales * spacing)
    shift = rng.uniform(-config.shift_voxels, config.shift_voxels, 3) / 2**depth
    bend = rng.normal(0, config.elastic_voxels / 2 / 2**depth, (3, *[_ELASTIC_KNOTS] * 3))
    return Motion(matrix, shift, bend)


def _rotation(angles: FloatArray) -> FloatArray:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        first, second = [other for other in range(3) if other != axis]
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def move(images: Tensor, labels: Tensor, changes: Sequence[Changes]) -> tuple[Tensor, Tensor]:
    """Flip, rotate, scale, shift and bend images (B, C, X, Y, Z) and labels (B, X, Y, Z) in the same way.

    Interpolation is linear for images and nearest for labels. The border voxels are repeated beyond the border.
    """
    both = torch.cat([images, labels[:, None]], dim=1)
    flipped = [tuple(axis for axis, flip in enumerate(item.flips, start=1) if flip) for item in changes]
    if any(flipped):
        both = torch.stack([sample.flip(axes) if axes else sample for sample, axes in zip(both, flipped, strict=True)])
    moving = [index for index, item in enumerate(changes) if item.motion]
    if moving:
        grid = _sampling_grid(images.shape[2:], [motion for item in changes if (motion := item.motion)], images.device)
        where = torch.tensor(moving).to(images.device, non_blocking=True)
        chosen = both[where]
        moved = torch.cat([_sample(chosen[:, :-1], grid, "bilinear"), _sample(chosen[:, -1:], grid, "nearest")], dim=1)
        both = both.index_copy(0, where, moved)
    return both[:, :-1], both[:, -1]


def _sampling_grid(shape: Sequence[int], motions: Sequence[Motion], device: torch.device) -> Tensor:
    """Return the coordinates (B, X, Y, Z, 3) for grid_sample: range -1..1, last axis (z, y, x)."""
    matrix, shift, bend = (_stack([getattr(motion, part) for motion in motions], device) for part in ("matrix", "shift", "bend"))
    bends = functional.interpolate(bend, size=tuple(shape), mode="trilinear", align_corners=True)
    x, y, z = torch.meshgrid(*(torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2 for size in shape), indexing="ij")
    axes = []
    for axis, size in enumerate(shape):
        to_x, to_y, to_z, by = (value.view(-1, 1, 1, 1) for value in (*matrix[:, axis].unbind(1), shift[:, axis]))
        axes.append((to_x * x + to_y * y + to_z * z + by + bends[:, axis]) / (max(size - 1, 1) / 2))
    return torch.stack(axes[::-1], dim=-1)


def _sample(values: Tensor, grid: Tensor, mode: str) -> Tensor:
    return functional.grid_sample(values, grid, mode=mode, padding_mode="border", align_corners=True)


def change_gamma(images: Tensor, changes: Sequence[Changes]) -> Tensor:
    """Map each channel of (B, C, X, Y, Z) to 0..1 by its extremes, raise it to the power of gamma, and map it back."""
    if all(item.gamma == 1 for item in changes):
        return images
    # one by one: on a CPU, the last bit of a power depends on how threads split the tensor
    return torch.stack([_power(image, item.gamma) if item.gamma != 1 else image for image, item in zip(images, changes, strict=True)])


def _power(image: Tensor, gamma: float) -> Tensor:
    low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
    extent = torch.where(high > low, high - low, torch.ones_like(low))
    return ((image - low) / extent) ** gamma * extent + low


def change_contrast(images: Tensor, changes: Sequence[Changes]) -> Tensor:
    """Apply gain and offset to normalised images (B, C, X, Y, Z)."""
    return images * _numbers(changes, lambda item: item.gain, images) + _numbers(changes, lambda item: item.offset, images)


def add_noise(images: Tensor, depth: int, changes: Sequence[Changes]) -> Tensor:
    """Add Gaussian noise to normalised images (B, C, X, Y, Z) at `depth`. Its unit is an intensity range of 1."""
    noisy = []
    for image, item in zip(images, changes, strict=True):
        if item.noise and item.noise[depth]:
            generator = torch.Generator(image.device).manual_seed(item.noise_seed + depth)
            image = image + item.noise[depth] * torch.randn(image.shape, generator=generator, device=image.device)
        noisy.append(image)
    return torch.stack(noisy)


def _numbers(changes: Sequence[Changes], of: Callable[[Changes], float], like: Tensor) -> Tensor:
    """Return one number per sample, in a shape that broadcasts with (B, C, X, Y, Z)."""
    return torch.tensor([of(item) for item in changes], dtype=torch.float32).to(like.device, non_blocking=True).view(-1, 1, 1, 1, 1)


def _stack(arrays: Sequence[FloatArray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float32)).to(device, non_blocking=True)
