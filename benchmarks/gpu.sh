#!/usr/bin/env bash
# Runs the measurements that need a GPU, within one call of eight minutes, and writes their results.
#
#   benchmarks/gpu.sh --part 1|2|3 [--wheels FOLDER] [--output FOLDER] ...     all options: benchmarks/gpu.sh --help
#
# The machine needs no package access. Its own PyTorch is used. Other packages come as wheels in the folder --wheels; they are installed
# beside the work, not into the machine's Python. PYTHON chooses the interpreter. Everything else is in gpu_rows.py.
set -u
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
wheels=
dry=
passed=()
while [ $# -gt 0 ]; do
    case $1 in
        --wheels) wheels=${2-}; shift ;;
        --wheels=*) wheels=${1#*=} ;;
        --dry-run) dry=1; passed+=("$1") ;;
        *) passed+=("$1") ;;
    esac
    [ $# -gt 0 ] && shift
done

install() { "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --upgrade --target "$site" "$@"; }

if [ -n "$wheels" ] && [ -z "$dry" ]; then
    site=$(mktemp -d)
    passed+=(--site "$site")
    chosen=()
    for wheel in "$wheels"/*.whl; do
        case ${wheel##*/} in
            torch-* | triton-* | nvidia_*) echo "not installed, the machine's own is used: ${wheel##*/}" >&2 ;;
            '*.whl') echo "no wheels in $wheels" >&2 ;;
            *) chosen+=("$wheel") ;;
        esac
    done
    if [ ${#chosen[@]} -gt 0 ] && ! install "${chosen[@]}"; then
        for wheel in "${chosen[@]}"; do # one wheel for another machine must not keep the others out
            install "$wheel" || echo "not installed: ${wheel##*/}" >&2
        done
    fi
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "$python" "$repo/benchmarks/gpu_rows.py" --elapsed "$SECONDS" ${passed[@]+"${passed[@]}"}
