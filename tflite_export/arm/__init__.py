"""Runs a `.tflite` file on an emulated AArch64 CPU, under QEMU's user mode.

x86 takes other kernels than a phone, so only this shows what a phone computes,
and how many instructions it executes. `make arm`, or from anywhere
`python -m tflite_export.arm`, sets it up in its own folder.

Modules: `emulator` (running and counting), `setup_root` (the download).
"""

from tflite_export.arm.emulator import CPUS, count_instructions, missing, run

__all__ = ["CPUS", "count_instructions", "missing", "run"]
