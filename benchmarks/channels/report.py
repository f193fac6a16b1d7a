"""Table and picture of the results of `channels.run`."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accuracy.report import origins, values
from harness import results

from channels.cases import Case
from channels.methods import METHODS

Line = dict[str, Any]
COLUMNS = (
    *("method", "share", "MACs, %", "test accuracy, %", "against wide, pt"),
    *("against narrow, pt", "kernels, bytes", "channels (seed 0)", "seeds"),
)
EXPLANATION = """\
Mean ± standard deviation over the seeds. MACs are relative to the wide network.
All have 4-bit weights, 8-bit activations and the same total epochs.
Bytes are an estimate of the coded kernels, as in `report`. "Against wide" is
the wide network with equal bits; "against narrow" is the narrow network from
scratch at the same share."""


def write(path: Path, case: Case) -> None:
    """Writes a table (.md) and a picture (.png) next to a file of results."""
    lines = results.read(path)
    groups = grouped(lines)
    epochs = (
        f"{case.num_train:,} training examples, {case.float_epochs} epochs in "
        f"float and {case.epochs} quantized. Float networks: "
        f"{results.mean_and_deviation(_percent(lines, 'float_score'))} %."
    )
    results.write_page(
        path.with_suffix(".md"),
        f"Accuracy against multiply-accumulates: {case.note}",
        f"{epochs} {EXPLANATION}",
        results.table(COLUMNS, rows(groups)),
        origins(lines),
    )
    plot(groups, path.with_suffix(".png"), case)


def grouped(lines: Sequence[Line]) -> list[list[Line]]:
    """Returns the seeds of each method and share, large shares first."""
    order = list(METHODS)

    def place(line: Line) -> tuple[int, float]:
        return order.index(line["method"]), -line["share"]

    groups = itertools.groupby(sorted(lines, key=place), place)
    return [sorted(group, key=lambda line: line["seed"]) for _, group in groups]


def rows(groups: Sequence[Sequence[Line]]) -> list[list[Any]]:
    """Returns a row for each group, in the order of the columns."""
    scores = {
        (g[0]["method"], g[0]["share"]): _percent(g, "test_score").mean()
        for g in groups
    }
    found = []
    for group in groups:
        first = group[0]
        key = first["method"], first["share"]
        sizes = [line["kernel_bytes"] for line in group]
        found.append(
            [
                METHODS[first["method"]].label,
                f"{first['share']:g}",
                results.mean_and_deviation(_percent(group, "relative_macs"), 1),
                results.mean_and_deviation(_percent(group, "test_score")),
                _difference(scores, key, ("wide_qat", 1.0)),
                _difference(scores, key, ("narrow_scratch", first["share"])),
                "-" if None in sizes else f"{sum(sizes) / len(sizes):,.0f}",
                "/".join(map(str, first["channels"])),
                ", ".join(str(line["seed"]) for line in group),
            ]
        )
    return found


def plot(groups: Sequence[Sequence[Line]], path: Path, case: Case) -> None:
    """Draws accuracy against MACs, a line for each method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8))
    axis = figure.subplots()
    by_method = itertools.groupby(groups, lambda group: group[0]["method"])
    for index, (method, members) in enumerate(by_method):
        found = list(members)
        scores = [_percent(group, "test_score") for group in found]
        axis.errorbar(
            [_percent(group, "relative_macs").mean() for group in found],
            [score.mean() for score in scores],
            yerr=[s.std(ddof=1) if len(s) > 1 else 0 for s in scores],
            fmt="osD^v<>P*X"[index % 10] + "-",
            color=f"C{index % 10}",
            capsize=3,
            label=METHODS[method].label,
        )
    axis.set_xlabel("MACs, % of the wide network")
    axis.set_ylabel("test accuracy, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    figure.suptitle(case.note, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _percent(group: Sequence[Line], key: str) -> Any:
    return 100 * values(group, key)


def _difference(
    scores: dict[tuple[str, float], float],
    key: tuple[str, float],
    reference: tuple[str, float],
) -> str:
    """The mean less that of a reference; "-" without one, or of itself."""
    if key == reference or reference not in scores:
        return "-"
    return f"{scores[key] - scores[reference]:+.2f}"
