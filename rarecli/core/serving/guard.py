"""Ends the server when the process of one of its Python models dies.

Triton runs every Python model in a process of its own. It does not restart one that died: readiness stays true, and every request that
goes there fails. A request can kill one before any code of ours sees it, with a shape whose size overflows. A server that has ended is
not ready, and whoever supervises it (export/triton/serve.sh, Kubernetes, systemd) starts it again.
Decision: docs/decisions/0010-one-implementation-on-the-server.md.
"""

from __future__ import annotations

import os
import subprocess

# KILL does not reach process 1 of a container; TERM ends it. The pipe closes when the model's process ends, however that happens.
_WATCH = """
read -r released && exit
kill -KILL "$0" 2>/dev/null && echo "rare: the process of the model $1 died, so the server was ended" >&2
kill -TERM "$0" 2>/dev/null
"""


class Guard:
    """Ends the parent process, Triton, if this process ends before `release`."""

    def __init__(self, model: str) -> None:
        self._shell = subprocess.Popen(["/bin/sh", "-c", _WATCH, str(os.getppid()), model], stdin=subprocess.PIPE)

    def release(self) -> None:
        """Let this process end without the server: the model was unloaded."""
        self._shell.communicate(b"released\n")
