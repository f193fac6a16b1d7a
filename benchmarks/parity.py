"""What the files of trained networks compute, against Keras, end to end.

    python benchmarks parity [--models resnet8 ds_cnn] [--epochs 12]

Starts from the float networks of `accuracy`, trains with 8-bit activations
to 5 % of the multiply-accumulates' bit operations, exports, and runs model and
file on the test split. The table of architectures does the same with random
weights.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accuracy.run import Run, Start, trained_model
from accuracy.workloads import WORKLOADS
from harness import cli, files, provenance, results
from harness.workload import CLASSIFICATION

import tflite_export
from tflite_export.runtime import interpreter

# The method of each level grid.
METHODS = {"dead_zone": "ours_dead_zone", "uniform": "ours_8bit"}
BUDGET = 0.05
COLUMNS = (
    *("model", "level grid", "seed", "test accuracy in Keras, %"),
    *("of the file, %", "same top class, %", "outputs within one step, %"),
    *("largest difference, steps", "integers equal"),
)


def main(argv: Sequence[str]) -> None:
    """Trains, exports and writes a table."""
    args = cli.parse(
        "parity",
        __doc__,
        argv,
        smoke={"models": ["ds_cnn"], "epochs": 1},
        models=["resnet8", "ds_cnn"],
        epochs=12,
        seeds=[0],
    )
    rows = []
    for name in args.models:
        start = Start.load(name, args)
        for seed, grid in itertools.product(args.seeds, METHODS):
            run = Run(name, METHODS[grid], BUDGET, args.epochs, seed)
            rows.append(measure(run, grid, start, args.output))
            print(results.table(COLUMNS, rows), flush=True)
    results.write_page(
        args.output / "parity.md",
        "Trained networks: the file against Keras",
        f"{provenance.line('ai-edge-litert', seeds=args.seeds)}; "
        f"{args.epochs} epochs, {100 * BUDGET:g} % BOPs, 8-bit activations; "
        "synthetic data. `python benchmarks parity`",
        results.table(COLUMNS, rows),
        "\n".join(f"- {name}: {WORKLOADS[name].note}" for name in args.models),
    )


def measure(run: Run, grid: str, start: Start, folder: Path) -> list[str]:
    """Returns one row of the table."""
    qmodel = trained_model(run, start, folder)
    x, y = start.split.test

    def export(path: Path) -> tflite_export.VerificationReport:
        tflite_export.export(qmodel, path, weight_storage="int8")
        return tflite_export.verify(path, qmodel, x)

    file, report = files.to_bytes(export)
    names = [tensor.name for tensor in qmodel.latent_model.inputs]
    (outputs,) = interpreter.predict(file, [x], names).values()
    equal = report.num_tensors - len(report.unequal)
    return [
        run.model,
        grid,
        str(run.seed),
        f"{100 * CLASSIFICATION.evaluate(qmodel, start.split.test):.2f}",
        f"{100 * CLASSIFICATION.score(x, outputs, y):.2f}",
        f"{100 * (report.top1_agreement or np.nan):.2f}",
        f"{100 * report.within_one_lsb:.2f}",
        f"{report.max_output_lsb:.0f}",
        f"{equal} of {report.num_tensors}",
    ]
