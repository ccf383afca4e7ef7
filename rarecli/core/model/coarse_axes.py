"""Adapts 3x3x3 kernels to axes whose voxels are coarser than the level they are convolved at.

An axis that is coarse by f holds one voxel where the level's own grid holds f. If the scan is constant within its own voxels, the mean
response over these f voxels is a convolution with an adapted kernel, which this module computes. It has no parameters of its own.
Decision: docs/decisions/0019-resolution-is-a-vector.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

import torch
from torch import Tensor

Factors = tuple[int, int, int]
"""How much coarser each axis (X, Y, Z) is than the level's own grid; 1: not coarser."""
Matrix = tuple[tuple[float, ...], ...]

SAME: Factors = (1, 1, 1)
_KEEP: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def convolution_mix(factor: int) -> Matrix:
    """Return the matrix that adapts a kernel (w0, w1, w2): to (w0/f, w1 + (1 - 1/f)(w0 + w2), w2/f)."""
    inside = 1 - 1 / factor
    return (1 / factor, 0.0, 0.0), (inside, 1.0, inside), (0.0, 0.0, 1 / factor)


def transposed_mix(factor: int) -> Matrix:
    """Return the matrix that adapts the kernel (w0, w1, w2) of an upsampling that an axis does not take part in.

    Upsampling would make the pair w1 x[i], w2 x[i] + w0 x[i+1] of every voxel. Of its mean the adapted kernel, applied with stride 1
    and padding 1, is the mean over the voxel, which is coarse by `factor` at the level below. factor 1: (w0/2, (w1 + w2)/2, 0).
    """
    half = 1 / 2
    return (half / factor, 0.0, 0.0), (half * (1 - 1 / factor), half, half), (0.0, 0.0, 0.0)


def mix_kernel(weight: Tensor, along: Sequence[Matrix]) -> Tensor:
    """Apply a 3x3 matrix to each axis of a kernel: (..., 3, 3, 3) -> the same shape. along: the matrices of X, Y and Z."""
    if all(matrix == _KEEP for matrix in along):
        return weight
    mixing = torch.tensor(_product(tuple(along)), device=weight.device, dtype=weight.dtype)
    return (weight.flatten(-3) @ mixing.T).reshape(weight.shape)


def adapt_convolution(weight: Tensor, factors: Factors) -> Tensor:
    """Adapt the kernel of a convolution (C_out, C_in, 3, 3, 3) to axes that are coarse by `factors`."""
    return mix_kernel(weight, [convolution_mix(factor) for factor in factors])


def adapt_transposed(weight: Tensor, factors: Factors, upsampled: Sequence[bool]) -> Tensor:
    """Adapt the kernel of a transposed convolution (C_in, C_out, 3, 3, 3). factors: of the level below. upsampled: the axes it doubles."""
    return mix_kernel(weight, [_KEEP if up else transposed_mix(factor) for factor, up in zip(factors, upsampled, strict=True)])


@cache
def _product(along: tuple[Matrix, ...]) -> Matrix:
    """Return the Kronecker product of the three matrices, 27 x 27, which mixes a flattened kernel. Not a tensor, which has a device."""
    rows = product(*along)
    return tuple(tuple(a * b * c for a, b, c in product(*row)) for row in rows)
