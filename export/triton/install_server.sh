#!/bin/sh
# Install a Triton server into a virtual environment, for tests and trials on a CPU: install_server.sh [FOLDER], by default .venv-triton.
# The server comes from the nvidia-pytriton wheel. Its Python package is not used, so its dependencies are left out. Its Python backend
# supports only numpy 1: with numpy 2 every tensor has 0 bytes.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=${1:-$root/.venv-triton}
stamp="$venv/.installed"
if [ -f "$stamp" ] && [ -z "$(find "$root/pyproject.toml" "$root/constraints.txt" "$0" -newer "$stamp")" ]; then
  exit 0
fi
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
sed 's/^numpy==.*/numpy==1.26.4/' "$root/constraints.txt" >"$venv/constraints.txt"
install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$venv/constraints.txt" "$@"; }
install --editable "$root[triton]" onnxruntime
install --no-deps --upgrade --target "$venv/server" nvidia-pytriton==0.7.0
"$venv/bin/python" - "$venv/server/pytriton/tritonserver" <<'CODE'
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

server = Path(sys.argv[1])
stub = server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}" / "triton_python_backend_stub"
if not stub.is_file():
    sys.exit(f"the server has no stub for Python {sys.version.split()[0]}; set PYTHON to one of {sorted(p.name for p in stub.parents[1].glob('*'))}")
shutil.copy2(stub, server / "backends" / "python")
libraries = subprocess.run(
    ["ldd", stub], env={"LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR")}, capture_output=True, text=True, check=True
).stdout
if missing := [line.split()[0] for line in libraries.splitlines() if "not found" in line]:
    sys.exit(f"the server's Python stub lacks {', '.join(missing)}: on Debian, apt-get install libpython3.{sys.version_info.minor}")
CODE
touch "$stamp"
