"""The C++ consumer is built once per session: optimised, and with sanitizers."""

import os

import pytest
from cpp_consumer import build, missing_packages

from rarecli.core.prediction.predictor import Predictor


@pytest.fixture(scope="session", autouse=True)
def _packages():
    if missing := missing_packages():
        words = f"export/cpp cannot be built here: {', '.join(missing)} missing; run export/cpp/install_packages.sh as root"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    return build(tmp_path_factory.mktemp("cpp") / "release")


@pytest.fixture(scope="session")
def sanitised(tmp_path_factory):
    return build(tmp_path_factory.mktemp("cpp") / "sanitised", "-DRARE_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug")


@pytest.fixture(scope="session")
def predictor(bundle):
    with Predictor(bundle, backend="openvino") as opened:
        yield opened


@pytest.fixture(scope="session")
def thick_predictor(thick_bundle):
    with Predictor(thick_bundle, backend="openvino") as opened:
        yield opened
