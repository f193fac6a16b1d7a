"""`python -m tflite_export COMMAND ...`, the same as `tflite-export`."""

import sys

from tflite_export.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
