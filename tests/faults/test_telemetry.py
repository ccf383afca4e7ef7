"""No package that rare imports sends telemetry: only loopback sockets, and no file in the user's home that the README does not list."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from rarecli.core.data.phantoms import Phantom
from rarecli.core.imaging.volume import write_image

pytestmark = pytest.mark.slow
LOOPBACK = re.compile(r'sin_addr=inet_addr\("127\.|inet_pton\(AF_INET6, "::1"|AF_UNIX|AF_NETLINK')


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    image, _ = Phantom(0).acquire(8.0)
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    write_image(path, image.data[0], image)
    return path


def commands(bundle, scan, output):
    yield ["predict", str(scan), "-m", str(bundle), "-o", str(output / "labels.nii.gz"), "--backend", "onnx"]
    yield ["info", str(bundle), "--verify", "--backend", "openvino"]
    yield ["export", str(bundle), "-o", str(output / "bundle"), "--depths", "3", "--precision", "fp16"]


def run_at_home(arguments, home, *before):
    home.mkdir(exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    command = [*before, sys.executable, "-m", "rarecli", *arguments]
    result = subprocess.run(command, env=clean | {"HOME": str(home)}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_nothing_is_written_into_the_home_of_the_user(bundle, scan, tmp_path):
    for number, arguments in enumerate(commands(bundle, scan, tmp_path)):
        run_at_home(arguments, tmp_path / f"home{number}")
        assert not [path for path in (tmp_path / f"home{number}").rglob("*") if path.is_file()], arguments[0]


def test_no_command_opens_a_socket_to_another_machine(bundle, scan, tmp_path):
    if shutil.which("strace") is None:
        pytest.fail("strace is not installed: apt-get install strace")
    for number, arguments in enumerate(commands(bundle, scan, tmp_path)):
        trace = tmp_path / f"trace{number}"
        run_at_home(arguments, tmp_path / "home", "strace", "-f", "-qq", "-e", "trace=connect,sendto,bind", "-o", str(trace))
        foreign = [line for line in trace.read_text().splitlines() if "AF_INET" in line and not LOOPBACK.search(line)]
        assert not foreign, arguments[0]
