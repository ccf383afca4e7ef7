"""Runs a bundle without rarecli. segment(image (C, X, Y, Z) in RAS axes, spacing in mm, bundle) -> labels (X, Y, Z)."""

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime


def segment(image, spacing, bundle):
    manifest = json.loads((Path(bundle) / "manifest.json").read_text())
    assert manifest["schema_version"] == 5
    plan = manifest["spec"]["plan"]
    whole, box = image.shape[1:], (slice(None),) * 3
    if plan["crop"] == "nonzero" and image.any():
        content = np.argwhere(image.any(axis=0))
        box = tuple(slice(low, high + 1) for low, high in zip(content.min(axis=0), content.max(axis=0), strict=True))
    image = image[(slice(None), *box)]
    engine, zooms = route(spacing, manifest["engines"], manifest["routing"])
    sizes = [max(1, math.floor(size * zooms.get(axis, 1) + 0.5)) for axis, size in enumerate(image.shape[1:], 1)]
    require_affordable(image.shape, sizes, zooms, engine, manifest)
    routed, least = np.asarray(image, np.float64), manifest["resampling"]["min_box_voxels"]
    for axis, zoom in zooms.items():
        routed = box_mean(routed, axis, sizes[axis - 1], 1 / zoom, least)
    routed = np.stack([normalise(data, plan["normalisation"], channel) for channel, data in enumerate(routed)]).astype(np.float32)
    powers = np.exp(slide(routed, engine, manifest["window"], bundle, len(plan["label_values"])))
    scores = powers / powers.sum(axis=0)
    for axis, zoom in zooms.items():
        size = image.shape[axis]
        if zoom > 1:
            scores = box_mean(scores, axis, size, zoom, least)
        else:
            nearest = np.floor((np.arange(size) - (size - 1) / 2) * zoom + scores.shape[axis] / 2).astype(int)
            scores = scores.take(nearest, axis=axis, mode="clip")
    labels = np.zeros(whole, dtype=int)
    labels[box] = np.array(plan["label_values"])[scores.argmax(axis=0)]
    return labels


def route(spacing, engines, rule):  # the engine, and spacing / grid spacing by resampled axis of an image (C, X, Y, Z)
    octaves = np.array([math.log2(s / t) for s, t in zip(spacing, rule["trained_spacing_mm"], strict=True)])
    wanted, entries = np.floor(octaves + 0.5), np.array([engine["entry"] for engine in engines])
    if rule["by"] == "finest":
        keys = abs(entries[:, 0] - wanted.min()), np.ptp(entries, axis=1) > 0
    else:
        wanted = np.maximum(wanted, entries.min(axis=0))
        steps, distances = abs(wanted - entries).sum(axis=1), abs(octaves - entries).sum(axis=1)
        keys = np.floor(distances / 1e-6 + 0.5), steps, (entries > wanted).any(axis=1)
    engine = engines[np.lexsort((*entries.T[::-1], *keys))[0]]  # the last key decides first
    ratios, slack = np.asarray(spacing) / engine["grid_spacing_mm"], rule["rounding_slack"]
    off = np.log2(ratios)
    near = abs(off) <= rule["as_is_octaves"] + slack
    if rule["by"] == "finest":
        near = near.all() & (np.ptp(off) <= rule["as_is_anisotropy_octaves"] + slack)
    resampled = ~near & (abs(ratios - 1) > rule["tolerance"] + slack)
    return engine, {axis: ratios[axis - 1] for axis in (1, 2, 3) if resampled[axis - 1]}


def require_affordable(shape, sizes, zooms, engine, manifest):  # from sizes alone, before anything is allocated
    rule, memory = manifest["resampling"], 1024 * int(Path("/proc/meminfo").read_text().split()[1])
    growth = math.prod(max(zooms.get(axis, 1), 1 / size) for axis, size in enumerate(shape[1:], 1))
    if growth > rule["max_growth"] or any(max(zoom, 1 / zoom) > rule["max_step"] for zoom in zooms.values()):
        raise ValueError(f"the spacing is too far from the grid: zoom {zooms}")
    window, starts = windows(sizes, engine, manifest["window"])
    padding, num = math.prod(max(1, w / s) for w, s in zip(window, sizes, strict=True)), math.prod(map(len, starts))
    if padding > max(engine["min_shape"]) and num > 256:
        raise ValueError(f"the scan is too thin for its length: {sizes} voxels, {padding:g} times as many with padding, {num} windows")
    num_classes, whole = len(manifest["spec"]["plan"]["label_values"]), math.prod(map(max, window, sizes))
    if (need := 4 * (math.prod(shape) + shape[0] * math.prod(sizes) + num_classes * whole)) > memory:
        raise ValueError(f"the scan takes at least {need} bytes, this machine has {memory}")


def box_mean(data, axis, new_size, step, least):  # beyond the border, the last voxel is repeated
    size, box, borders = data.shape[axis], max(least, step), np.arange(data.shape[axis] - 1) + 0.5
    centres = (np.arange(new_size) - (new_size - 1) / 2) * step + (size - 1) / 2
    low, high = (centres - box / 2)[:, None], (centres + box / 2)[:, None]
    left, right = np.append(-np.inf, borders), np.append(borders, np.inf)
    weights = np.clip(np.minimum(right, high) - np.maximum(left, low), 0, None) / box
    return np.moveaxis(np.tensordot(weights, data, axes=(1, axis)), 0, axis)


def normalise(data, rule, channel):
    if rule["kind"] == "per-channel":
        return normalise(data, rule["rules"][channel], 0)
    if rule["kind"] in ("none", "z-score"):
        return data if rule["kind"] == "none" else (data - data.mean()) / (data.std() if np.ptp(data) else np.inf)
    if rule["kind"] == "ct":
        return (data.clip(rule["lower"][channel], rule["upper"][channel]) - rule["mean"][channel]) / rule["std"][channel]
    sample = data[data != 0] if rule["voxels"] == "nonzero" and data.any() else data
    low, high = np.percentile(sample, [rule["lower"], rule["upper"]])
    if low == high and (others := sample[sample != low]).size:  # a small structure on a constant background
        low, high = np.minimum(low, np.percentile(others, rule["lower"])), np.maximum(high, np.percentile(others, rule["upper"]))
    return ((data - low) / (high - low)).clip(0, 1) if high > low else np.zeros_like(data)


def windows(shape, engine, rule):
    window, starts = [], []
    for size, patch, divisor, least in zip(shape, engine["patch_shape"], engine["divisors"], engine["min_shape"], strict=True):
        num = math.ceil((size - patch) / (patch * (1 - rule["overlap"]))) + 1 if size > patch else 1
        starts.append([math.floor(i * (size - patch) / (num - 1) + 0.5) for i in range(num)] if num > 1 else [0])
        window.append(min(patch, max(least, math.ceil(size / divisor) * divisor)))
    return window, starts


def slide(image, engine, rule, bundle, num_classes):
    session, shape = onnxruntime.InferenceSession(Path(bundle) / engine["file"]), image.shape[1:]
    window, starts = windows(shape, engine, rule)
    pads = [(0, 0), *((0, max(0, w - s)) for w, s in zip(window, shape, strict=True))]
    padded = np.pad(image, pads, constant_values=rule["padding_value"])
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (rule["sigma"] * n)) ** 2) for n in window]
    weights, total = np.maximum(np.einsum("x,y,z->xyz", *axes), rule["min_weight"]), np.zeros((num_classes + 1, *padded.shape[1:]))
    for corner in product(*starts):
        box = (slice(None), *(slice(start, start + size) for start, size in zip(corner, window, strict=True)))
        logits = session.run([engine["output"]["name"]], {engine["input"]["name"]: padded[box][None]})[0][0]
        total[box] += weights * np.concatenate([logits, np.ones((1, *window))])
    return (total[:-1] / total[-1])[:, : shape[0], : shape[1], : shape[2]]
