"""Normalises intensities to the range that the network expects."""

from __future__ import annotations

import numpy as np

from rarecli.core.config.plan import CtNormalisation, Normalisation, PercentileNormalisation
from rarecli.core.types import FloatArray

Limits = tuple[tuple[float, float], ...]
"""Per channel: the intensities that are mapped to 0 and 1."""


def percentile_limits(image: FloatArray, rule: PercentileNormalisation) -> Limits:
    """Return the rule's two percentiles of each channel of (C, X, Y, Z), with linear interpolation between order statistics in float64.

    If both are equal, the limits are that value and the percentiles of the other voxels (`PercentileNormalisation.where_equal`).
    """
    limits = []
    lower, upper = rule.lower, rule.upper
    for channel in image:
        if rule.voxels == "nonzero" and (content := channel[channel != 0]).size:
            channel = content
        low, high = np.percentile(channel.astype(np.float64), [lower, upper], overwrite_input=True)
        if low == high and (others := channel[channel != np.float32(low)].astype(np.float64)).size:
            least, most = np.percentile(others, [lower, upper])
            low, high = min(low, least), max(high, most)
        limits.append((float(low), float(high)))
    return tuple(limits)


def normalise(image: FloatArray, rule: Normalisation, limits: Limits | None = None) -> FloatArray:
    """Return (C, X, Y, Z) normalised, as a new float32 array. limits: replace the percentiles of `image` (a patch uses its whole scan's).

    Percentile: (x - low) / (high - low), clipped to 0..1; a constant channel becomes 0.
    """
    result = np.empty(image.shape, dtype=np.float32)
    if isinstance(rule, CtNormalisation):
        for channel, (out, data) in enumerate(zip(result, image, strict=True)):
            np.clip(data, rule.lower[channel], rule.upper[channel], out=out)
            out -= np.float32(rule.mean[channel])
            out /= np.float32(rule.std[channel])
        return result
    for out, data, (low, high) in zip(result, image, limits or percentile_limits(image, rule), strict=True):
        extent = np.float32(high - low)
        if extent == 0:
            out[...] = 0
        elif np.isfinite(extent):
            np.subtract(data, np.float32(low), out=out)
            out /= extent
        else:  # the difference of float32 extremes needs float64
            out[...] = (data.astype(np.float64) - low) / (high - low)
        np.clip(out, 0, 1, out=out)
    return result
