#!/bin/sh
# Serve a repository with the server from install_server.sh: serve.sh REPOSITORY [options of tritonserver].
# TRITON_VENV names another virtual environment. A server that was ended because a model's process died is started again.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=${TRITON_VENV:-$root/.venv-triton}
repository=$1
shift
libraries=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
# the server's Python ignores PYTHONPATH and uses the modules of the first python3 on PATH
export PATH="$venv/bin:$PATH"
export LD_LIBRARY_PATH="$venv/server/nvidia_pytriton.libs:$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
stopped=
trap 'stopped=yes; kill "$server"' INT TERM
killed=137
status=$killed
while [ "$status" -eq $killed ] && [ -z "$stopped" ]; do
  "$venv/server/pytriton/tritonserver/bin/tritonserver" --model-repository="$repository" \
    --backend-directory="$venv/server/pytriton/tritonserver/backends" \
    --backend-config="python,shm-region-prefix-name=rare_$$_" "$@" &
  server=$!
  while # a signal to this script interrupts `wait`
    status=0
    wait "$server" || status=$?
    kill -0 "$server" 2>/dev/null
  do :; done
  rm -f "/dev/shm/rare_$$_"*
done
exit "$status"
