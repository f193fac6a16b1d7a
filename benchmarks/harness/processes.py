"""Measurements in processes of their own, which share no state."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

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
    with mock.patch.dict(os.environ, environment or {}):
        process.start()
    sender.close()
    root, peak = psutil.Process(process.pid), 0
    while not receiver.poll(POLL_S):
        peak = max(peak, _memory(root))
    try:
        return receiver.recv(), peak / 2**20
    except EOFError:
        raise SystemExit(f"{function.__name__} failed: see above.") from None
    finally:
        process.join()


def _send(sender: Any, function: Callable[..., Any], *arguments: Any) -> None:
    sender.send(function(*arguments))


def _memory(root: psutil.Process) -> int:
    """The bytes of a process and its children; 0 when one ends meanwhile."""
    try:
        members = (root, *root.children(recursive=True))
        return sum(member.memory_full_info().pss for member in members)
    except psutil.NoSuchProcess:
        return 0
