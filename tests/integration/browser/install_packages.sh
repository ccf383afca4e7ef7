#!/bin/sh
# Debian's chromium, in which the tests open report.html. Installed if the user is root; otherwise the command to type is printed.
set -eu
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null && exit 0
if [ "$(id -u)" = 0 ]; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends chromium
else
  echo "missing for the tests of pages: apt-get install chromium" >&2
  exit 1
fi
