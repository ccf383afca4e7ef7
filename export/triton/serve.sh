#!/bin/sh
# Serve a repository with the server that install_server.sh made: serve.sh REPOSITORY [options of tritonserver]. TRITON_VENV names another environment.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=${TRITON_VENV:-$root/.venv-triton}
repository=$1
shift
libraries=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
# the server's Python ignores PYTHONPATH; its modules are those of the first python3 on PATH
export PATH="$venv/bin:$PATH"
export LD_LIBRARY_PATH="$venv/server/nvidia_pytriton.libs:$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$venv/server/pytriton/tritonserver/bin/tritonserver" --model-repository="$repository" \
  --backend-directory="$venv/server/pytriton/tritonserver/backends" "$@"
