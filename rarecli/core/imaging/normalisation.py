"""Normalises intensities to the range that the network expects."""

from __future__ import annotations

import numpy as np

from rarecli.core.config.plan import (
    CtNormalisation,
    NoNormalisation,
    Normalisation,
    PercentileNormalisation,
    PerChannelNormalisation,
    ZScoreNormalisation,
)
from rarecli.core.types import FloatArray

Limits = tuple[tuple[float, float], ...]
"""Per channel: the intensities that are mapped to 0 and 1."""
FIXED: Limits = ((0.0, 1.0),)
"""Stands for the limits of a channel whose rule takes none from the scan."""


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


def limits_of(image: FloatArray, rule: Normalisation) -> Limits | None:
    """Return what `normalise` takes from the intensities of (C, X, Y, Z); None for a rule of fixed numbers alone."""
    if isinstance(rule, PerChannelNormalisation):
        found = [limits_of(channel[None], of_channel) for channel, of_channel in zip(image, rule.rules, strict=True)]
        return tuple((limits or FIXED)[0] for limits in found) if any(found) else None
    if isinstance(rule, PercentileNormalisation):
        return percentile_limits(image, rule)
    return tuple(_mean_and_beyond(channel) for channel in image) if isinstance(rule, ZScoreNormalisation) else None


def depends_on_scan(rule: Normalisation) -> bool:
    """Return whether a part of a scan must be normalised with the limits of the whole."""
    if isinstance(rule, PerChannelNormalisation):
        return any(map(depends_on_scan, rule.rules))
    return isinstance(rule, PercentileNormalisation | ZScoreNormalisation)


def _mean_and_beyond(channel: FloatArray) -> tuple[float, float]:
    """Return the mean, and the mean plus the standard deviation, both in float64; twice the value of a constant channel."""
    low, high = float(channel.min()), float(channel.max())
    if low == high:
        return low, low
    mean = channel.mean(dtype=np.float64)
    return float(mean), float(mean + channel.std(dtype=np.float64))


def normalise(image: FloatArray, rule: Normalisation, limits: Limits | None = None) -> FloatArray:
    """Return (C, X, Y, Z) normalised, as a new float32 array. limits: replace those of `image` (a patch uses its whole scan's).

    Percentile: (x - low) / (high - low), clipped to 0..1. z-score: the same, not clipped. A constant channel becomes 0.
    """
    if isinstance(rule, PerChannelNormalisation):
        alone = zip(image, rule.rules, limits or [None] * len(image), strict=True)
        return np.concatenate([normalise(channel[None], of_channel, found and (found,)) for channel, of_channel, found in alone])
    result = np.empty(image.shape, dtype=np.float32)
    if isinstance(rule, NoNormalisation):
        result[...] = image
        return result
    if isinstance(rule, CtNormalisation):
        for channel, (out, data) in enumerate(zip(result, image, strict=True)):
            np.clip(data, rule.lower[channel], rule.upper[channel], out=out)
            out -= np.float32(rule.mean[channel])
            out /= np.float32(rule.std[channel])
        return result
    for out, data, (low, high) in zip(result, image, limits or limits_of(image, rule) or (), strict=True):
        extent = np.float32(high - low)
        if extent == 0:
            out[...] = 0
        elif np.isfinite(extent):
            np.subtract(data, np.float32(low), out=out)
            out /= extent
        else:  # the difference of float32 extremes needs float64
            out[...] = (data.astype(np.float64) - low) / (high - low)
        if isinstance(rule, PercentileNormalisation):
            np.clip(out, 0, 1, out=out)
    return result
