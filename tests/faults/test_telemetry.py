"""Nothing that rare imports reports to its maker: no socket but loopback, no file but where the user wants one. Run under strace."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from rarecli.core.data.phantoms import Phantom
from rarecli.core.imaging.volume import write_image

pytestmark = pytest.mark.slow
WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|creat\(|mkdir(at)?\(")
LOOPBACK = re.compile(r'sin_addr=inet_addr\("127\.|inet_pton\(AF_INET6, "::1"|AF_UNIX|AF_NETLINK')


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    image, _ = Phantom(0).acquire(8.0)
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    write_image(path, image.data[0], image)
    return path


def commands(phantom_dataset, prepared, run, bundle, scan, output):
    """A call of every command but `convert`, which needs another project's checkpoint, and `demo`, which calls the others."""
    small = ["--epochs", "1", "--num-filters", "2", "--num-depths", "2", "--set", "num_folds=4", "--device", "cpu"]
    yield ["preprocess", phantom_dataset, "-o", output / "prepared", "--jobs", "2"]
    yield ["train", prepared, "-o", output / "run", *small, "--set", "num_workers=1"]
    yield ["predict", scan, "-m", run, "-o", output / "torch.nii.gz"]
    yield ["predict", scan, "-m", bundle, "-o", output / "onnx.nii.gz", "--backend", "onnx"]
    yield ["predict", phantom_dataset / "imagesTr", "-m", bundle, "-o", output / "labels", "--backend", "openvino", "--depth", "3"]
    yield ["score", phantom_dataset / "labelsTr", output / "labels", "-o", output / "scores"]
    yield ["evaluate", phantom_dataset, "-m", bundle, "-o", output / "evaluation", "--depths", "3"]
    yield ["export", run, "-o", output / "bundle", "--depths", "3"]
    yield ["info", bundle, "--verify"]
    yield ["benchmark", bundle, "-o", output / "benchmark", "--depths", "3", "--backends", "onnx,openvino"]


def run_at_home(arguments, home, temporary, *before):
    home.mkdir(exist_ok=True)
    temporary.mkdir(exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_", "TORCHINDUCTOR_", "MPL", "RARE_"))}
    command = [*before, sys.executable, "-B", "-m", "rarecli", *map(str, arguments)]
    environment = clean | {"HOME": str(home), "TMPDIR": str(temporary)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.timeout(1200)
def test_every_command_writes_where_it_was_told_and_opens_no_socket_to_another_machine(
    phantom_dataset, prepared, run, bundle, scan, tmp_path
):
    """Files are opened for writing in the output, the temporary folder, /dev, and the caches of matplotlib and of compiled models; nowhere
    else in the user's home.
    """
    if shutil.which("strace") is None:
        pytest.fail("strace is not installed: apt-get install strace")
    output, home, temporary = tmp_path / "output", tmp_path / "home", tmp_path / "temporary"
    ours = (home / ".cache" / "matplotlib", home / ".cache" / "rare")  # docs/usage.md lists them
    caches = [home / ".cache", home / ".config", home / ".config" / "matplotlib", *ours]
    allowed = (str(output), str(temporary), "/dev/", "/proc/self/", "/proc/thread-self/", *map(str, caches))
    for number, arguments in enumerate(commands(phantom_dataset, prepared, run, bundle, scan, output)):
        trace = tmp_path / f"trace{number}"
        calls = "trace=connect,sendto,bind,openat,creat,mkdir,mkdirat"
        run_at_home(arguments, home, temporary, "strace", "-f", "--seccomp-bpf", "-qq", "-s", "4096", "-e", calls, "-o", str(trace))
        lines = trace.read_text(errors="replace").splitlines()
        assert not [line for line in lines if "AF_INET" in line and not LOOPBACK.search(line)], arguments[0]
        written = [found[1] for line in lines if WRITES.search(line) and (found := re.search(r'"([^"]*)"', line))]
        assert not [path for path in written if path.startswith("/") and not path.startswith(allowed)], arguments[0]
        assert written or arguments[0] == "info", arguments[0]
        assert all(any(map(path.is_relative_to, ours)) for path in home.rglob("*") if path.is_file()), arguments[0]
    assert list((home / ".cache" / "rare").iterdir())
