"""Limits its own memory and then runs another script; see `sandbox.py`."""

import json
import os
import runpy
import sys
from pathlib import Path


def limit_memory(limit_bytes: int) -> None:
    """Limits the address space, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    # A crash is expected here; it must not fill the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    request = json.loads(Path(sys.argv[2], "request.json").read_text())
    limit_memory(request["memory_limit_bytes"])
    script, folder, *emulator = sys.argv[1:]
    if emulator:
        os.execv(emulator[0], [*emulator, script, folder])
    sys.argv[:] = [script, folder]
    runpy.run_path(script, run_name="__main__")
