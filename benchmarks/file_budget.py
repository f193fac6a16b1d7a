"""Files of budgets in bytes: is the limit met, by the first training?

    python benchmarks file_budget [--budgets 20000 40000 80000]

Each network is trained briefly on synthetic data, then with
`CompressionBudget(file_bytes=, target=)`, and exported: the file must be at or
below the budget, and within 3 % of it. A budget below the least that the
network can have is refused before the training, with that number. The
trainings are too short for accuracy to be a result; it is in the table as a
sign of life. The same command continues where it ended.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from accuracy.workloads import WORKLOADS
from harness import cli, files, provenance, results
from harness.training import Training, float_network
from harness.workload import Splits

import codeq_keras
import tflite_export

NUM_EXAMPLES = 3_000
NUM_SAMPLES = 100
FLOAT_CYCLES = ((8, 0.5),)
SEED = 0
COLUMNS = (
    *("network", "target", "budget", "file", "of the budget", "zeros", "bits"),
    *("not weights, biases", "accuracy", "seconds"),
)
PACKAGES = ("tensorflow", "ai-edge-litert", "tflite-micro", "ethos-u-vela")


def main(argv: Sequence[str]) -> None:
    """Trains and exports to each budget and writes a table."""
    name = "file_budget"
    args = cli.parse(
        name,
        __doc__,
        argv,
        smoke={"models": ["ds_cnn"], "budgets": [20_000], "epochs": 1},
        models=["ds_cnn", "resnet8", "mobilenet_v1"],
        targets=["litert", "tflm"],
        budgets=[20_000, 40_000, 80_000],
        epochs=8,
    )
    path = args.output / f"{name}.jsonl"
    done = {_key(row) for row in results.read(path)}
    for model in args.models:
        split = Splits.load(WORKLOADS[model], NUM_EXAMPLES)
        for target in args.targets:
            for budget in args.budgets:
                if (model, target, budget) not in done:
                    row = trained(model, split, target, budget, args)
                    results.append(path, row)
    results.write_page(
        args.output / f"{name}.md",
        "Budgets in bytes of the file",
        f"{provenance.line(*PACKAGES, seeds=[SEED])}; {args.epochs} epochs of "
        f"{NUM_EXAMPLES:,} synthetic examples. `python benchmarks {name}`",
        results.table(COLUMNS, map(cells, results.read(path))),
    )


def trained(
    name: str,
    split: Splits,
    target: str,
    budget: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Trains to a budget and exports; the row of the results."""
    workload = WORKLOADS[name]
    kept = args.output / "float" / f"file_budget_{name}.keras"
    net = float_network(workload, split, kept, FLOAT_CYCLES)
    qmodel = codeq_keras.quantize_model(net, activation_bit_width=8)
    training = Training(workload, split, args.epochs, SEED)
    limit = codeq_keras.CompressionBudget(file_bytes=budget, target=target)
    row = {"model": name, "target": target, "budget": budget}
    start = time.monotonic()
    try:
        training.fit(qmodel, callbacks=[limit])
    except ValueError as error:
        return row | {"refused": str(error)}
    seconds = time.monotonic() - start
    _, result = files.to_bytes(
        tflite_export.export,
        qmodel,
        target=target,
        representative_dataset=split.train[0][:NUM_SAMPLES],
    )
    report = codeq_keras.report(qmodel)
    kinds = result.bytes_by_kind
    return row | {
        "bytes": result.size_bytes,
        "sparsity": report.sparsity,
        "bit_width": report.mean_bit_width,
        "rest": result.size_bytes
        - sum(kinds.get(k, 0) for k in ("weights", "indices", "biases")),
        "accuracy": training.evaluate(qmodel, "test"),
        "seconds": seconds,
    }


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Returns a row of the table."""
    first = (row["model"], row["target"], f"{row['budget']:,}")
    if "refused" in row:
        sentence = row["refused"].split(":")[0]
        return (*first, f"refused: {sentence}", *("" for _ in COLUMNS[4:]))
    return (
        *first,
        f"{row['bytes']:,}",
        f"{row['bytes'] / row['budget']:.1%}",
        f"{row['sparsity']:.1%}",
        f"{row['bit_width']:.2f}",
        f"{row['rest']:,}",
        f"{row['accuracy']:.1%}",
        f"{row['seconds']:.0f}",
    )


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["model"], row["target"], row["budget"]
