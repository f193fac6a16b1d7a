"""Runs a `.tflite` file on an emulated AArch64 CPU, under QEMU's user mode.

x86 takes other kernels than a phone. So only this shows the outputs of a phone,
and the number of its instructions. `make arm`, or from anywhere
`python -m tflite_export.arm`, sets it up in its own folder.
"""

from tflite_export.arm.emulator import CPUS, count_instructions, missing, run

__all__ = ["CPUS", "count_instructions", "missing", "run"]
