"""The scripts of export/web in node: their own tests, and the reader of scans beside Python's."""

import json
import os
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from nifti_cases import CASES

from rarecli.core.engines.segment_page import joined_modules
from rarecli.core.imaging.volume import read_volume

WEB = Path(__file__).parents[2] / "export" / "web"
ANOTHER_KIND = {"missing", "a folder", "a pipe", "a pipe under a packed name", "a link to /dev/zero", "4 TB of holes"}
"""A browser hands over no such files; the sizes of node's blobs end at 4 GB."""
BEHIND_THE_STREAM = {"a byte behind zeros", "a cut member behind the stream", "zeros between members"}
"""What may follow a gzip stream is for the browser to say; node is laxer than chromium, which takes one stream and nothing behind it."""
OTHER_WORDS = {"a bomb of 768 MB": "reading the scan takes more memory than this browser has"}


@pytest.fixture(scope="module")
def node():
    found = shutil.which("node")
    if found is None:
        words = "no node here; run tests/integration/browser/install_packages.sh as root"
        pytest.fail(words) if os.environ.get("CI") else pytest.skip(words)
    return found


def test_the_arithmetic(node):
    tests = sorted(map(str, (WEB / "tests").glob("*.test.mjs")))
    ended = subprocess.run([node, "--test", *tests], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


def test_the_page_reads_and_refuses_the_same_scans(node, tmp_path):
    names = sorted(CASES.keys() - ANOTHER_KIND - BEHIND_THE_STREAM)
    paths = []
    for number, name in enumerate(names):
        file_name, build, _ = CASES[name]
        (tmp_path / str(number)).mkdir()
        paths.append(tmp_path / str(number) / file_name)
        build(paths[-1])
    ended = subprocess.run([node, WEB / "tests" / "verdicts.mjs"], input="\n".join(map(str, paths)), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for name, path, line in zip(names, paths, ended.stdout.splitlines(), strict=True):
        verdict, problem = json.loads(line), OTHER_WORDS.get(name, CASES[name][2])
        assert verdict.get("problem") == problem, (name, verdict)
        if problem is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scan = read_volume(path)
            assert verdict["shape"] == list(scan.shape), name
            np.testing.assert_allclose(verdict["affine"], scan.affine[:3], rtol=1e-6, atol=1e-9, err_msg=name)
            voxels = [np.reshape(channel, scan.shape, order="F") for channel in verdict["channels"]]
            np.testing.assert_allclose(voxels, scan.data, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["page", "worker"])
def test_the_modules_make_one_script(node, tmp_path, name):
    script = tmp_path / "script.js"
    script.write_text(joined_modules(WEB / "src" / f"{name}.js"))
    ended = subprocess.run([node, "--check", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr  # a name that two modules declare is a SyntaxError
    assert "import {" not in script.read_text()
    assert "export " not in script.read_text()
    assert "</script" not in script.read_text()
