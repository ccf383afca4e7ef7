#!/bin/sh
# Debian packages for export/cpp. Missing ones are installed if the user is root; otherwise the command to type is printed.
set -eu
packages="cmake make g++ cppcheck libnifti-dev nlohmann-json3-dev libssl-dev zlib1g-dev"
missing=""
for package in $packages; do
  dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ]; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends $missing
else
  echo "missing for export/cpp: apt-get install$missing" >&2
  exit 1
fi
