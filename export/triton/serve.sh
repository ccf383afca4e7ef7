#!/bin/sh
# Serve a repository with the server from install_server.sh: serve.sh REPOSITORY [options of tritonserver].
# TRITON_VENV names another virtual environment.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=${TRITON_VENV:-$root/.venv-triton}
repository=$1
shift
libraries=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
# the server's Python ignores PYTHONPATH and uses the modules of the first python3 on PATH
export PATH="$venv/bin:$PATH"
export LD_LIBRARY_PATH="$venv/server/nvidia_pytriton.libs:$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$venv/server/pytriton/tritonserver/bin/tritonserver" --model-repository="$repository" \
  --backend-directory="$venv/server/pytriton/tritonserver/backends" "$@"
