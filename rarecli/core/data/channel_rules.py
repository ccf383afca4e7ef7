"""How each channel is normalised: as the user chose, or as its name says.

Decision: docs/decisions/0029-normalisation-per-channel.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from rarecli.core.config.plan import (
    CtNormalisation,
    NoNormalisation,
    Normalisation,
    OneRule,
    PercentileNormalisation,
    PerChannelNormalisation,
    ZScoreNormalisation,
)

NORMALISATIONS = ("percentile", "percentile-nonzero", "ct", "z-score", "rescale", "none")
_OF_NNUNET = {"nonorm": "none", "zscore": "z-score", "rescale_to_0_1": "rescale", "rgb_to_0_1": "rgb"}
"""Names of channels by which nnU-Net chooses. Source: nnU-Net, map_channel_name_to_normalization.py."""
Foreground = tuple[float, float, float, float]
"""Of the dataset's foreground in one channel: the percentiles 0.5 and 99.5, mean and standard deviation."""


def kinds_of_channels(chosen: str | None, channel_names: Sequence[str]) -> tuple[str, ...]:
    """Return the kind for each channel: `chosen` if given, else that which its name means, ignoring case; percentile for other names.

    Names with a meaning: those of `NORMALISATIONS`, of which CT is one, and nnU-Net's noNorm, zscore, rescale_to_0_1 and rgb_to_0_1.
    """
    known = dict(zip(NORMALISATIONS, NORMALISATIONS, strict=True)) | _OF_NNUNET
    return tuple(chosen or known.get(name.casefold(), "percentile") for name in channel_names)


def make_normalisation(kinds: Sequence[str], foreground: Sequence[Foreground] | None = None) -> Normalisation:
    """Return the rule of channels of these kinds. Without statistics of the foreground, percentiles stand in for ct."""
    numbers: Sequence[Foreground | None] = foreground or [None] * len(kinds)
    rules = [_rule(kind, of_channel) for kind, of_channel in zip(kinds, numbers, strict=True)]
    fixed = [rule for rule in rules if isinstance(rule, CtNormalisation)]
    if len(fixed) == len(rules):
        lower, upper, mean, std = (tuple(getattr(rule, name)[0] for rule in fixed) for name in ("lower", "upper", "mean", "std"))
        return CtNormalisation(lower=lower, upper=upper, mean=mean, std=std)
    return rules[0] if all(rule == rules[0] for rule in rules) else PerChannelNormalisation(rules=tuple(rules))


def _rule(kind: str, numbers: Foreground | None) -> OneRule:
    if kind == "z-score":
        return ZScoreNormalisation()
    if kind == "none":
        return NoNormalisation()
    if kind == "rescale":
        return PercentileNormalisation(lower=0, upper=100)
    if kind == "rgb":
        return CtNormalisation(lower=(0,), upper=(255,), mean=(0,), std=(255,))
    if kind == "ct" and numbers is not None:
        low, high, mean, std = numbers
        return CtNormalisation(lower=(low,), upper=(high,), mean=(mean,), std=(std if std > 0 else 1.0,))
    return PercentileNormalisation(voxels="nonzero" if kind == "percentile-nonzero" else "all")
