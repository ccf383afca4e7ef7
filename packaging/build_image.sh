#!/bin/sh
# Builds the image rare:latest, runs it as an ordinary user without a network, and prints its size.
# Without a builder it says so and exits with 0: what cannot be built here is not a failure of the project.
set -eu
cd "$(dirname "$0")/.."
for builder in docker podman; do
  if command -v "$builder" >/dev/null && "$builder" info >/dev/null 2>&1; then
    break
  fi
  builder=
done
if [ -z "$builder" ]; then
  echo "the image was not built: neither docker nor podman works on this machine"
  exit 0
fi
"$builder" build --quiet --file packaging/Dockerfile --tag rare:latest .
"$builder" run --rm --network none rare:latest models
test "$("$builder" run --rm --entrypoint id rare:latest -u)" != 0
bytes=$("$builder" image inspect --format '{{.Size}}' rare:latest)
echo "rare:latest: $((bytes / 1000000)) MB"
if [ "$bytes" -gt 400000000 ]; then
  echo "the image is larger than 400 MB" >&2
  exit 1
fi
