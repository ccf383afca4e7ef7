"""A consumer who has export/README.md, the bundle, json, numpy, nibabel and onnxruntime: a second implementation."""

import ast
import json
import math
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file


def to_ras(image):
    orientation = nib.orientations.io_orientation(image.affine)
    return image.as_reoriented(orientation), orientation


def choose_engine(spacing, manifest):
    rule = manifest["routing"]
    natural = math.floor(min(math.log2(s / t) for s, t in zip(spacing, rule["trained_spacing_mm"], strict=True)) + 0.5)
    return min(manifest["engines"], key=lambda engine: (abs(engine["depth"] - natural), engine["depth"]))


def box_mean(line, new_size, step, width):
    """Integrate the piecewise constant line (repeated beyond its ends) over boxes, by its antiderivative."""
    margin = math.ceil(width) + math.ceil(step) + 2
    padded = np.concatenate([np.repeat(line[:1], margin, 0), line, np.repeat(line[-1:], margin, 0)]).astype(np.float64)
    integral = np.concatenate([np.zeros((1, *line.shape[1:])), padded.cumsum(0)])  # up to the left edge of each padded voxel
    centres = (np.arange(new_size) - (new_size - 1) / 2) * step + (len(line) - 1) / 2 + margin + 0.5

    def up_to(position):
        whole = np.floor(position).astype(int)
        part = (position - whole).reshape(-1, *[1] * (line.ndim - 1))
        return integral[whole] * (1 - part) + integral[whole + 1] * part

    return (up_to(centres + width / 2) - up_to(centres - width / 2)) / width


def consume(scan, bundle, manifest):
    """Labels on the scan's own grid, as an array; the normalised image on the routed grid; the depth."""
    ras, orientation = to_ras(scan)
    spacing = np.linalg.norm(ras.affine[:3, :3], axis=0)
    engine = choose_engine(spacing, manifest)
    rule, plan = manifest["routing"], manifest["spec"]["plan"]
    image = np.asarray(ras.dataobj, dtype=np.float64)
    steps = []
    ratios = spacing / engine["grid_spacing_mm"]
    octaves, slack = np.log2(ratios), rule["rounding_slack"]
    alike = octaves.max() - octaves.min() <= rule["as_is_anisotropy_octaves"] + slack
    as_is = alike and np.abs(octaves).max() <= rule["as_is_octaves"] + slack
    for axis, ratio in enumerate(ratios):
        if as_is or abs(ratio - 1) <= rule["tolerance"] + slack:
            steps.append(None)
            continue
        steps.append(1 / ratio)
        new_size = max(1, math.floor(image.shape[axis] * ratio + 0.5))
        width = max(manifest["resampling"]["min_box_voxels"], steps[-1])
        image = np.moveaxis(box_mean(np.moveaxis(image, axis, 0), new_size, steps[-1], width), 0, axis)
    low, high = np.percentile(image, [plan["normalisation"]["lower"], plan["normalisation"]["upper"]])
    image = np.clip((image - low) / (high - low), 0, 1).astype(np.float32)
    logits = slide(image, engine, manifest["window"], bundle, len(plan["label_names"]))
    classes = logits.argmax(0)
    for axis, step in enumerate(steps):
        if step is not None:
            size, new_size = ras.shape[axis], classes.shape[axis]
            nearest = np.floor((np.arange(size) - (size - 1) / 2) / step + (new_size - 1) / 2 + 0.5).astype(int)
            classes = classes.take(nearest.clip(0, new_size - 1), axis=axis)
    values = np.array(plan["label_values"])[classes]
    back = nib.orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), orientation)
    return nib.orientations.apply_orientation(values, back), image, engine["depth"]


def slide(image, engine, rule, bundle, num_classes):
    session = onnxruntime.InferenceSession(bundle / engine["file"])
    window, starts, pads = [], [], []
    for size, patch, divisor, least in zip(image.shape, engine["patch_shape"], engine["divisors"], engine["min_shape"], strict=True):
        if size > patch:
            num = math.ceil((size - patch) / (patch * (1 - rule["overlap"]))) + 1
            starts.append([math.floor(i * (size - patch) / (num - 1) + 0.5) for i in range(num)])
            window.append(patch)
        else:
            starts.append([0])
            window.append(min(patch, max(least, math.ceil(size / divisor) * divisor)))
        pads.append((0, max(0, window[-1] - size)))
    padded = np.pad(image, pads, constant_values=rule["padding_value"])
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (rule["sigma"] * n)) ** 2) for n in window]
    weights = np.maximum(np.einsum("x,y,z->xyz", *axes), rule["min_weight"])
    total, sum_of_weights = np.zeros((num_classes, *padded.shape)), np.zeros(padded.shape)
    for corner in product(*starts):
        box = tuple(slice(start, start + extent) for start, extent in zip(corner, window, strict=True))
        answer = session.run([engine["output"]["name"]], {engine["input"]["name"]: padded[box][None, None]})[0][0]
        total[(slice(None), *box)] += weights * answer
        sum_of_weights[box] += weights
    x, y, z = image.shape
    return (total / sum_of_weights)[:, :x, :y, :z]


@pytest.mark.parametrize("depth", range(4))
def test_the_manifest_and_the_readme_suffice_for_a_consumer(bundle, depth):
    manifest = json.loads((bundle / "manifest.json").read_text())
    vector = next(vector for vector in manifest["conformance"] if vector["depth"] == depth)
    labels, image, routed = consume(nib.load(bundle / vector["scan"]["file"]), bundle, manifest)
    assert routed == depth
    np.testing.assert_allclose(image, load_file(bundle / vector["arrays"]["file"])["image"][0], atol=1e-5)
    expected = np.asarray(nib.load(bundle / vector["labels"]["file"]).dataobj)
    assert np.count_nonzero(expected) > 0
    assert np.count_nonzero(labels != expected) <= 1e-4 * expected.size  # voxels where two logits are equal to the last bits


def test_this_consumer_uses_nothing_of_ours():
    tree = ast.parse(Path(__file__).read_text())
    modules = {
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not any(module.startswith(("rarecli", "torch")) for module in modules)
