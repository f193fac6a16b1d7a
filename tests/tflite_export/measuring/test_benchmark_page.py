"""The HTML page of a benchmark: its tables, a bar for each file."""

import re
from pathlib import Path

from tflite_export.measuring.report import BenchmarkReport, BenchmarkRow
from tflite_export.measuring.sizes import Sizes


def test_tables_and_bars_of_a_benchmark_are_on_its_page(tmp_path):
    rows = tuple(
        BenchmarkRow(
            Path(f"{name}.tflite"),
            Sizes(size, size // 2, None, 1000, 800.0),
            (),
            (),
            macs=9000,
        )
        for name, size in (("old", 20_000), ("<new>", 5_000))
    )
    report = BenchmarkReport(rows, {"host": "a laptop"})
    path = tmp_path / "benchmark.html"

    report.to_html(path)

    text = path.read_text()
    assert "host: a laptop" in text
    assert "&lt;new&gt;.tflite" in text
    assert "<new>" not in text
    table = text[text.index("<table>") :]
    for number in ("20,000", "5,000", "0.25"):
        assert f">{number}<" in table
    # File, gzip, MACs and weights: a bar for each of two files.
    assert len(re.findall(r"<rect", text)) == 8
