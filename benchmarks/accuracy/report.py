"""Table and plot of the results of `accuracy.run`."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import results
from harness.workload import Workload

from accuracy.methods import METHODS

Line = dict[str, Any]
EXPLANATION = """\
Mean ± standard deviation over the seeds. BOPs are relative to the dense float32
network; activations have 32 bits where the method does not say otherwise. Bytes
are those of the kernels: dense codes, or a bitmap and the codes that are not
zero, whichever is less. "Against float" compares with float fine-tuning of the
same epochs."""


def write(path: Path, workload: Workload) -> None:
    """Writes a table (.md) and a plot (.png) next to a file of results.

    What is known of the runs beside their numbers, in a file of the same name
    that ends in `.notes.md`, follows the table.
    """
    lines = results.read(path)
    groups = grouped(lines)
    notes = path.with_suffix(".notes.md")
    results.write_page(
        path.with_suffix(".md"),
        *page(groups, lines, workload),
        notes.read_text() if notes.exists() else "",
    )
    plot(groups, path.with_suffix(".png"), workload)


def grouped(lines: Sequence[Line]) -> list[list[Line]]:
    """Returns the seeds of each method, budget and number of epochs.

    In the order of the methods; large budgets first.
    """
    order = list(METHODS)

    def place(line: Line) -> tuple[int, int, float]:
        budget = line["budget"] or 0
        return order.index(line["method"]), line["epochs"], -budget

    groups = itertools.groupby(sorted(lines, key=place), place)
    return [list(group) for _, group in groups]


def page(
    groups: Sequence[Sequence[Line]], lines: Sequence[Line], workload: Workload
) -> list[str]:
    """Returns title and text, with what the numbers depend on."""
    score = workload.goal.score_name
    columns = (
        *("method", "epochs", "BOPs, %", f"test {score}, %"),
        *("against float, pt", "zeros, %", "kernels, bytes", "seeds"),
    )
    title = f"{score[0].upper()}{score[1:]} against cost: {workload.note}"
    table = results.table(columns, _rows(groups))
    return [title, EXPLANATION, table, origins(lines)]


def _rows(groups: Sequence[Sequence[Line]]) -> list[list[Any]]:
    floats = {g[0]["epochs"]: g for g in groups if g[0]["method"] == "float"}
    rows = []
    for group in groups:
        first, loss = group[0], "-"
        scores = 100 * values(group, "test_score")
        if first["epochs"] in floats and first["method"] != "float":
            reference = 100 * values(floats[first["epochs"]], "test_score")
            loss = f"{scores.mean() - reference.mean():+.2f}"
        bops = 100 * values(group, "relative_bops")
        rows.append(
            [
                METHODS[first["method"]].label,
                first["epochs"] or "-",
                results.mean_and_deviation(bops),
                results.mean_and_deviation(scores),
                loss,
                f"{100 * values(group, 'sparsity').mean():.1f}",
                f"{values(group, 'kernel_bytes').mean():,.0f}",
                ", ".join(str(seed) for seed in sorted(values(group, "seed"))),
            ]
        )
    return rows


def values(group: Sequence[Line], key: str) -> np.ndarray:
    """Returns one number of every line."""
    return np.array([line[key] for line in group])


def plot(
    groups: Sequence[Sequence[Line]], path: Path, workload: Workload
) -> None:
    """Draws the score against relative BOPs and against bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5))
    axes = figure.subplots(1, 2, sharey=True)
    for axis, key, label, factor in (
        (axes[0], "relative_bops", "relative BOPs, %", 100),
        (axes[1], "kernel_bytes", "kernels, bytes", 1),
    ):
        by_method = itertools.groupby(groups, lambda g: g[0]["method"])
        for index, (method, found) in enumerate(by_method):
            members = list(found)
            scores = [100 * values(g, "test_score") for g in members]
            axis.errorbar(
                [factor * values(g, key).mean() for g in members],
                [s.mean() for s in scores],
                yerr=[s.std(ddof=1) if len(s) > 1 else 0 for s in scores],
                fmt="osD^v<>P*X"[index % 10],
                color=f"C{index % 10}",
                capsize=3,
                label=METHODS[method].label,
            )
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"test {workload.goal.score_name}, %")
    axes[0].legend(fontsize=7)
    figure.suptitle(workload.note, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def origins(lines: Sequence[Line]) -> str:
    """Dates, versions and hardware of all lines."""
    texts = {
        "Dates": [line["date"] for line in lines],
        "Versions": [
            ", ".join(map(" ".join, line["versions"].items())) for line in lines
        ],
        "Hardware": [line["hardware"] for line in lines],
    }
    return "\n".join(
        f"- {name}: {'; '.join(sorted(set(found)))}"
        for name, found in texts.items()
    )
