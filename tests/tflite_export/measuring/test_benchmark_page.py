"""The HTML pages of a benchmark and of an export: all their numbers."""

import re
from pathlib import Path

import pytest

from tflite_export.measuring.export_result import ExportResult
from tflite_export.measuring.report import BenchmarkReport, BenchmarkRow
from tflite_export.measuring.sizes import Sizes
from tflite_export.verification.report import (
    OutputComparison,
    VerificationReport,
)


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


def test_proof_bytes_and_notes_of_an_export_are_on_its_page(tmp_path):
    output = OutputComparison("logits", 1.0, 0.5, 0.75, within_one_lsb=0.875)
    result = ExportResult(
        path=tmp_path / "model.tflite",
        size_bytes=2048,
        verification=VerificationReport(True, 3, (), (output,), 8),
        notes=("a <note>",),
        gzip_size_bytes=1234,
        bytes_by_kind={"weights": 1536, "graph": 512},
    )
    path = tmp_path / "export.html"

    result.to_html(path)

    text = path.read_text()
    assert "<title>model.tflite</title>" in text
    for shown in ("2,048", "1,234", "3 of 3", "87.50%", "75.00%", "75.0%"):
        assert f">{shown}<" in text
    assert "<li>a &lt;note&gt;</li>" in text


def test_page_of_another_kind_of_file_is_refused(tmp_path):
    result = ExportResult(
        tmp_path / "m.tflite", 1, VerificationReport(True, 1, (), (), 1), ()
    )
    with pytest.raises(ValueError, match=r"must end in '\.html'"):
        result.to_html(tmp_path / "m.pdf")
