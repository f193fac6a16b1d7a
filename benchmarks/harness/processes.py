"""Measurements in processes of their own, which share no state."""

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

POLL_S = 0.05


def run_alone(
    function: Callable[..., Any],
    *arguments: Any,
    environment: Mapping[str, str] | None = None,
) -> tuple[Any, float]:
    """Returns what a function returns, and the peak of the memory in MiB.

    The memory is that of the process and its children together; what they
    share is counted once (PSS).
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, *arguments))
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    sender.close()
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    try:
        result = receiver.recv()
    except EOFError:
        raise SystemExit(f"{function.__name__} failed: see above.") from None
    finally:
        process.join()
        watcher.join()
    return result, peak[0] / 2**20


def _send(sender: Any, function: Callable[..., Any], *arguments: Any) -> None:
    sender.send(function(*arguments))


def _watch(process: Any, peak: list[int]) -> None:
    """Keeps the largest memory of a process and its children."""
    root = psutil.Process(process.pid)
    while process.is_alive():
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            for member in (root, *root.children(recursive=True)):
                total += member.memory_full_info().pss
        peak[0] = max(peak[0], total)
        time.sleep(POLL_S)
