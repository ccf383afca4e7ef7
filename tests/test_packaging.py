"""What packages the project agrees with pyproject.toml, and the build of the image says where it cannot run."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def without_spaces(requirement):
    return requirement.replace(" ", "")


def test_the_conda_recipe_has_the_dependencies_of_the_package():
    recipe = yaml.safe_load((ROOT / "packaging" / "conda" / "meta.yaml").read_text(encoding="utf-8"))
    extra = PROJECT["optional-dependencies"]["cpu"]
    expected = {*PROJECT["dependencies"], f"python{PROJECT['requires-python']}"}
    expected |= {one for one in extra if not one.startswith("openvino")}
    assert {without_spaces(one) for one in recipe["requirements"]["run"]} == expected
    assert recipe["package"] == {"name": PROJECT["name"], "version": PROJECT["version"]}
    assert recipe["build"]["entry_points"] == [f"{name} = {place}" for name, place in PROJECT["scripts"].items()]
    assert recipe["about"]["license"] == PROJECT["license"]


def test_the_image_copies_files_that_exist_and_has_an_ordinary_user():
    text = (ROOT / "packaging" / "Dockerfile").read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, flags=re.MULTILINE)
    assert copied
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name
    assert re.search(r"^USER (?!root|0)\w+$", text, flags=re.MULTILINE)


def test_without_a_builder_the_script_says_so(tmp_path):
    for name in ("sh", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    script = ROOT / "packaging" / "build_image.sh"
    ended = subprocess.run(["sh", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "the image was not built: neither docker nor podman works on this machine\n"


def test_a_builder_is_used_and_a_large_image_is_refused(tmp_path):
    """The builder here is a script that writes down its calls."""
    for name in ("sh", "dirname", "echo", "test"):
        (tmp_path / name).symlink_to(shutil.which(name))
    builder = tmp_path / "docker"
    builder.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" = image ] && echo 400000001\n[ "$1" != run ] || echo 1000\n')
    builder.chmod(0o755)
    script = ROOT / "packaging" / "build_image.sh"
    ended = subprocess.run(["sh", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout.endswith("rare:latest: 400 MB\n")
    calls = (tmp_path / "calls").read_text()
    assert "build --quiet --file packaging/Dockerfile" in calls
    assert "--network none" in calls
