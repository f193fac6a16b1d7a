"""Runs one benchmark: `python benchmarks NAME [options]`.

Python puts the folder that it runs on the path, so every script finds
`harness` and its neighbours, and nothing else of the repository.
"""

import importlib
import sys

# The module of each benchmark; README.md says which question it answers.
MODULES = {
    "accuracy": "accuracy.run",
    "channels": "channels.run",
    "channel_files": "channels.files",
    "channel_latency": "channels.latency",
    "paper": "paper.run",
    "figure4": "paper.figure4",
    "training_time": "training_time",
    "export_time": "export_time",
    "file_size": "file_size",
    "file_budget": "file_budget",
    "file_bytes": "file_bytes",
    "arm_instructions": "arm_instructions",
    "post_training": "post_training",
    "advice": "advice",
    "structured_sparsity": "structured_sparsity",
    "parity": "parity",
}


def main() -> None:
    """Hands the options to the benchmark."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in MODULES:
        raise SystemExit(
            f"Expected `python benchmarks NAME [options]`, with a name of "
            f"{', '.join(MODULES)}. Received: {name!r}. `--help` after the "
            "name lists its options."
        )
    importlib.import_module(MODULES[name]).main(sys.argv[2:])


if __name__ == "__main__":
    main()
