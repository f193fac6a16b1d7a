"""Table and plot of the results of `accuracy.py`."""

import collections
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import accuracy_methods
import numpy as np
from workloads import Workload

Line = dict[str, Any]


def write(path: pathlib.Path, workload: Workload) -> None:
    """Writes a table (.md) and a plot (.png) next to a file of results.

    What is known of the runs beside their numbers, in a file of the same name
    that ends in `.notes.md`, follows the table.

    Args:
        path: The file with one JSON object per line.
        workload: What they are of.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    groups = grouped(lines)
    notes = path.with_suffix(".notes.md")
    text = table(groups, lines, workload)
    if notes.exists():
        text += "\n" + notes.read_text()
    path.with_suffix(".md").write_text(text)
    plot(groups, path.with_suffix(".png"), workload)


def grouped(lines: Sequence[Line]) -> list[list[Line]]:
    """Returns the seeds of each method, budget and number of epochs.

    In the order of the methods; large budgets first.
    """
    groups: dict[Any, list[Line]] = collections.defaultdict(list)
    for line in lines:
        key = (line["epochs"], line["budget"], line["method"])
        groups[key].append(line)
    order = list(accuracy_methods.METHODS)
    return sorted(
        groups.values(),
        key=lambda g: (
            order.index(g[0]["method"]),
            g[0]["epochs"],
            -(g[0]["budget"] or 0),
        ),
    )


def table(
    groups: Sequence[Sequence[Line]], lines: Sequence[Line], workload: Workload
) -> str:
    """Returns the table in Markdown, with what the numbers depend on."""
    baseline = {
        group[0]["epochs"]: group
        for group in groups
        if group[0]["method"] == "float"
    }
    score = workload.task.score_name
    rows = [
        "| method | epochs | BOPs, % "
        f"| test {score}, % | against float, pt "
        "| zeros, % | kernels, bytes | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group in groups:
        first = group[0]
        loss = "-"
        if first["epochs"] in baseline and first["method"] != "float":
            reference = values(baseline[first["epochs"]], "test_score")
            difference = values(group, "test_score").mean()
            loss = f"{100 * (difference - reference.mean()):+.2f}"
        rows.append(
            f"| {accuracy_methods.METHODS[first['method']].label} "
            f"| {first['epochs'] or '-'} "
            f"| {_percent(group, 'relative_bops')} "
            f"| {_percent(group, 'test_score')} "
            f"| {loss} "
            f"| {100 * values(group, 'sparsity').mean():.1f} "
            f"| {values(group, 'kernel_bytes').mean():,.0f} "
            f"| {', '.join(str(s) for s in sorted(values(group, 'seed')))} |"
        )
    return "\n".join(
        [
            f"# {score[0].upper()}{score[1:]} against cost: {workload.note}",
            "",
            "Mean ± standard deviation over the seeds. BOPs are relative to "
            "the dense float32 network; activations have 32 bits where the "
            "method does not say otherwise. Bytes are "
            "those of the kernels: dense codes, or a bitmap and the codes "
            'that are not zero, whichever is less. "Against float" compares '
            "with float fine-tuning of the same epochs.",
            "",
            *rows,
            "",
            _provenance(lines),
            "",
        ]
    )


def values(group: Sequence[Line], key: str) -> np.ndarray:
    """Returns one number of every line."""
    return np.array([line[key] for line in group])


def plot(
    groups: Sequence[Sequence[Line]], path: pathlib.Path, workload: Workload
) -> None:
    """Draws the score against relative BOPs and against bytes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    by_method: dict[str, list[Sequence[Line]]] = collections.defaultdict(list)
    for group in groups:
        by_method[group[0]["method"]].append(group)
    for axis, key, label in zip(
        axes,
        ("relative_bops", "kernel_bytes"),
        ("relative BOPs, %", "kernels, bytes"),
        strict=True,
    ):
        for index, (method, members) in enumerate(by_method.items()):
            factor = 100 if key == "relative_bops" else 1
            scores = [100 * values(g, "test_score") for g in members]
            axis.errorbar(
                [factor * values(g, key).mean() for g in members],
                [s.mean() for s in scores],
                yerr=[s.std(ddof=1) if len(s) > 1 else 0 for s in scores],
                fmt="osD^v<>P*X"[index % 10],
                color=f"C{index % 10}",
                capsize=3,
                label=accuracy_methods.METHODS[method].label,
            )
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"test {workload.task.score_name}, %")
    axes[0].legend(fontsize=7)
    figure.suptitle(workload.note, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _percent(group: Sequence[Line], key: str) -> str:
    numbers = 100 * values(group, key)
    if len(numbers) == 1:
        return f"{numbers[0]:.2f}"
    return f"{numbers.mean():.2f} ± {numbers.std(ddof=1):.2f}"


def _provenance(lines: Sequence[Line]) -> str:
    """Dates, versions and hardware of all lines."""
    dates = sorted({line["date"] for line in lines})
    versions = sorted(
        {
            ", ".join(f"{k} {v}" for k, v in line["versions"].items())
            for line in lines
        }
    )
    hardware = sorted({line["hardware"] for line in lines})
    return "\n".join(
        f"- {name}: {'; '.join(found)}"
        for name, found in (
            ("Dates", dates),
            ("Versions", versions),
            ("Hardware", hardware),
        )
    )
