"""Conformance vectors: small phantom scans with the result of every step, to test a consumer of the bundle.

BUNDLE/conformance/
  ENTRY_scan.nii.gz        a scan that routes to the entry: axes not in RAS order, one of them coarser than the grid and one finer
  ENTRY_labels.nii.gz      its labels, on its own grid
  ENTRY.safetensors        image (C, X, Y, Z): on the routed grid, normalised, not padded; logits (K, X, Y, Z): on the same grid
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from rarecli.core.config.geometry import entry_name, entry_text, is_isotropic
from rarecli.core.config.network_cost import count
from rarecli.core.data.phantoms import Phantom
from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.manifest import ConformanceVector, HashedFile
from rarecli.core.engines.parity import RELATIVE_TOLERANCE, Gate
from rarecli.core.engines.probes import background_image, large_shape
from rarecli.core.engines.runner import Runner
from rarecli.core.errors import ModelError
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.restore import classes_of, label_values, mean_probabilities
from rarecli.core.imaging.scan_rules import EntryRule, ScanRules
from rarecli.core.imaging.sliding_window import sliding_logits
from rarecli.core.imaging.volume import read_labels, read_volume, write_image, write_labels
from rarecli.core.jobs.files import sha256
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.jobs.words import counted
from rarecli.core.types import Entry, Shape

FOLDER = "conformance"
_MOST_VOXELS_PER_AXIS = 34
"""Keeps the bundle small, while windows of 32 still overlap."""
_MOST_VOXELS_OF_THICK = 18
"""The least that a network of four levels takes without padding."""


def write_vectors(bundle: Path, rules: ScanRules, runner: Runner) -> tuple[ConformanceVector, ...]:
    """Write the vectors, computed by `runner` (PyTorch), and return their entries for the manifest.

    There is one for each isotropic entry, and three for entries with thick slices: one along each axis. If the model crops scans, they have
    a margin of zeros.
    """
    vectors = []
    (bundle / FOLDER).mkdir()
    for number, rule in enumerate(_chosen(rules)):
        x, y, z = rule.grid_spacing_mm
        # a little more than a patch, so that windows overlap where the patch is small enough
        most = _MOST_VOXELS_PER_AXIS if is_isotropic(rule.entry) else _MOST_VOXELS_OF_THICK
        a, b, c = (s * min(size + 3, most) for size, s in zip(rule.patch_shape, (x, y, z), strict=True))
        phantom, _ = Phantom(number, (a, b, c), rules.spec.network.in_channels).acquire((x, 1.25 * y, 0.8 * z), "PLS")
        if rules.spec.plan.crop == "nonzero":
            margins = ((0, 0), (2, 1), (0, 3), (1, 0))
            inside = tuple(slice(before, size - after) for size, (before, after) in zip(phantom.data.shape, margins, strict=True))
            kept = np.zeros_like(phantom.data)
            kept[inside] = phantom.data[inside]
            phantom = replace(phantom, data=kept)
        scan_file, labels_file, arrays_file = (
            Path(FOLDER) / f"{entry_name(rule.entry)}{rest}" for rest in ("_scan.nii.gz", "_labels.nii.gz", ".safetensors")
        )
        write_image(bundle / scan_file, phantom.data if phantom.num_channels > 1 else phantom.data[0], phantom)
        scan = read_volume(bundle / scan_file)
        routed = prepare_scan(scan, rules)
        assert routed.route.entry == rule.entry
        logits = sliding_logits(routed.image, rules, rule.entry, runner.run)
        write_labels(bundle / labels_file, label_values(classes_of(logits, routed), rules.spec), scan)
        save_file({"image": np.ascontiguousarray(routed.image), "logits": np.ascontiguousarray(logits)}, bundle / arrays_file)
        scan_hash, labels_hash, arrays_hash = (
            HashedFile(file=name.as_posix(), sha256=sha256(bundle / name)) for name in (scan_file, labels_file, arrays_file)
        )
        vectors.append(ConformanceVector(entry=rule.entry, scan=scan_hash, labels=labels_hash, arrays=arrays_hash))
    return tuple(vectors)


def _chosen(rules: ScanRules) -> list[EntryRule]:
    """Return the entries that have a vector: the isotropic ones, and the thickest slices along each axis."""
    thick: dict[int, EntryRule] = {}
    for rule in rules.entries:
        axis = int(np.argmax(rule.entry))
        if not is_isotropic(rule.entry) and (axis not in thick or max(rule.entry) > max(thick[axis].entry)):
            thick[axis] = rule
    return [rule for rule in rules.entries if is_isotropic(rule.entry)] + [thick[axis] for axis in sorted(thick)]


def verify_bundle(bundle: Bundle, runner: Runner, reference: Runner | None, reporter: Reporter = Silent()) -> tuple[list[str], str]:
    """Compare every file with the manifest, run every vector, and run every engine on a large image that is mostly constant background.

    Returns one line per vector and per large image, and the verdict in words. Raises ModelError at the first disagreement.
    reference: gives the expected logits on the large image; without one the last line says so.
    """
    manifest = bundle.manifest
    vectors, entries = manifest.conformance, runner.entries if reference else ()
    told = f"{counted(len(vectors), 'conformance vector')} and {counted(len(entries), 'large image')}"
    reporter.say(f"comparing the files with the manifest, then {told} in {runner.backend}")
    bundle.verify()
    checks = [partial(_verify_vector, bundle, vector, runner) for vector in vectors]
    costs = [count(manifest.spec.network, vector.entry, manifest.rules.entry(vector.entry).patch_shape).flop for vector in vectors]
    if reference:
        checks += [partial(_verify_on_background, bundle, entry, runner, reference) for entry in entries]
        costs += [2 * count(manifest.spec.network, entry, _shape_of_background(bundle, entry, runner)).flop for entry in entries]
    lines = [check() for check in reporter.track(checks, "verify", len(checks), costs)]
    if not reference:
        lines.append("large images: not compared, there is no other backend here")
    tolerance = f"{RELATIVE_TOLERANCE[manifest.precision]:g} of the largest logit"
    return lines, f"{counted(len(checks), 'check')} passed: {told}; tolerance {tolerance}"


def _shape_of_background(bundle: Bundle, entry: Entry, runner: Runner) -> Shape:
    plan = bundle.manifest.engine(entry).plan
    if plan and runner.backend == "tensorrt":
        _, _, x, y, z = plan.shape_max
        return x, y, z
    return large_shape(bundle.manifest.spec, entry)


def _verify_on_background(bundle: Bundle, entry: Entry, runner: Runner, reference: Runner) -> str:
    """Compare an engine on a large constant background, where engines that are right on small images have failed."""
    manifest = bundle.manifest
    spec, shape = manifest.spec, _shape_of_background(bundle, entry, runner)
    image = background_image(spec, shape)
    name = f"{manifest.engine(entry).file}, {runner.backend}, on a large image"
    gate = Gate(name, spec, entry, manifest.precision, "use another backend, or export again")
    agreement = gate.compare(runner.run(image, entry), reference.run(image, entry))
    size = " x ".join(map(str, shape))
    return f"{entry_text(entry)}: {size} voxels within {agreement.max_abs:.1e} of {reference.backend} ({runner.backend})"


def _verify_vector(bundle: Bundle, vector: ConformanceVector, runner: Runner) -> str:
    spec, rules = bundle.manifest.spec, bundle.manifest.rules
    scan = read_volume(bundle.file(vector.scan))
    expected_labels = read_labels(bundle.file(vector.labels)).data[0]
    arrays = load_file(bundle.file(vector.arrays))
    routed = prepare_scan(scan, rules)
    if routed.route.entry != vector.entry:
        found, expected = entry_text(routed.route.entry), entry_text(vector.entry)
        raise ModelError("the scan is routed to a different entry", path=vector.scan.file, found=found, expected=expected)
    image_off = float(np.abs(routed.image - arrays["image"]).max())
    if image_off > 1e-5:
        raise ModelError("the scan is prepared differently", path=vector.arrays.file, field="image", found=f"off by {image_off:.1e}")
    logits = sliding_logits(routed.image, rules, vector.entry, runner.run)
    reference = arrays["logits"]
    tolerance = RELATIVE_TOLERANCE[bundle.manifest.precision] * float(np.abs(reference).max())
    off = float(np.abs(logits - reference).max())
    # an error of the logits changes a probability by at most half of it
    two_best = np.sort(mean_probabilities(reference, routed), axis=0)[-2:]
    uncertain = routed.restore_labels((two_best[1] - two_best[0] <= tolerance).astype(np.uint8)).astype(bool)
    wrong = (label_values(classes_of(logits, routed), spec) != expected_labels) & ~uncertain
    if not off <= tolerance or wrong.any():
        raise ModelError(
            "the engine does not reproduce the conformance vector",
            path=vector.arrays.file,
            field=f"{entry_text(vector.entry)}, {runner.backend}",
            found=f"logits off by {off:.1e}, {int(wrong.sum())} labels wrong",
            expected=f"at most {tolerance:.1e}, none",
        )
    return f"{entry_text(vector.entry)}: logits within {off:.1e}, labels correct ({runner.backend})"
