"""The short run of fuzz.py; `make fuzz` is the long one."""

import subprocess
import sys
from pathlib import Path


def test_20_000_mutated_files_are_read_or_refused():
    command = [sys.executable, Path(__file__).with_name("fuzz.py"), "--num-files", "20000", "--seed", "0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert "seed 0: 20000 files in" in result.stdout
    assert result.stdout.count(": read\n") > 8  # most kinds still have some valid files
