"""Run pip-audit over constraints.txt. Exit 1 if an advisory applies. If advisories cannot be reached, print one line and exit 0.

pip-audit has a separate environment, so that its dependencies do not mix with the project's.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / ".venv" / "audit"


def audit() -> str:
    """Return the result in one line.

    Raises SystemExit with a line per advisory if any applies, OSError if no advisories can be queried.
    """
    if not (TOOLS / "bin" / "pip-audit").is_file():
        venv.create(TOOLS, with_pip=True)
        install = ["install", "--quiet", "--disable-pip-version-check", "--retries", "0", "--timeout", "20", "pip-audit"]
        if subprocess.run([TOOLS / "bin" / "pip", *install], capture_output=True, check=False, timeout=300).returncode:
            raise OSError("pip-audit cannot be installed")
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--requirement", ROOT / "constraints.txt"]
    result = subprocess.run([TOOLS / "bin" / "pip-audit", *options], capture_output=True, text=True, check=False, timeout=300)
    try:
        packages = json.loads(result.stdout)["dependencies"]
    except ValueError:
        raise OSError((result.stderr.strip().splitlines() or ["no answer"])[-1]) from None
    known = [package for package in packages if "skip_reason" not in package]
    if not known:
        raise OSError("the index knows no advisories")
    if bad := [f"{package['name']} {package['version']}: {item['id']}" for package in known for item in package["vulns"]]:
        raise SystemExit("\n".join(bad))
    return f"audit: no advisory for {len(known)} of {len(packages)} packages; the index does not know the others"


if __name__ == "__main__":
    try:
        line = audit()
    except (OSError, subprocess.SubprocessError) as error:
        line = f"audit: skipped, {error}"
    sys.stdout.write(f"{line}\n")
