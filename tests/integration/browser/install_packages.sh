#!/bin/sh
# What the tests of pages need: Debian's chromium, in which they open, and node, which runs the tests of export/web. Installed if the user is
# root; otherwise the command to type is printed.
set -eu
missing=""
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing="chromium"
command -v node >/dev/null || missing="$missing nodejs"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ]; then
  apt-get update -qq
  # shellcheck disable=SC2086
  apt-get install -y -qq --no-install-recommends $missing
else
  echo "missing for the tests of pages: apt-get install $missing" >&2
  exit 1
fi
