"""`python -m tflite_export.arm`: sets the emulation up, once."""

import sys

from tflite_export.arm import emulator
from tflite_export.arm.setup_root import set_up


def main() -> int:
    """Returns 0 if the emulation is set up, 1 after an error."""
    destination = emulator.root()
    if emulator.missing() is not None:
        try:
            set_up(destination, lambda line: _write(f"{line} ..."))
        except (RuntimeError, OSError) as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    _write(f"AArch64 under QEMU is ready in {destination}.")
    return 0


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
