"""pip-audit over constraints.txt, where advisories can be reached; where not, one line says so. Exit 1 if one applies.

pip-audit lives in an environment of its own, so that its dependencies are none of the project's.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / ".venv" / "audit"


def audit() -> str:
    """The result in one line, or a line per package with an advisory. Raises SystemExit for these, OSError where nothing can be asked."""
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
