"""Rows, tables and pages of results."""

from harness import results


def test_rows_are_read_as_they_were_added(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    rows = [{"seed": 0, "score": 0.5}, {"seed": 1, "score": None}]

    assert results.read(path) == []
    for row in rows:
        results.append(path, row)

    assert results.read(path) == rows
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_deviation_is_that_of_a_sample_and_left_out_for_one():
    assert results.mean_and_deviation([90.0, 92.0]) == "91.00 ± 1.41"
    assert results.mean_and_deviation([90.0], digits=1) == "90.0"


def test_median_stands_with_percentiles():
    assert results.median_and_range([1, 2, 3, 4, 9], 0) == "3 (1-9)"
    assert results.median_and_range(range(101), 0, (10, 90)) == "50 (10-90)"


def test_page_holds_title_text_and_table(tmp_path):
    path = tmp_path / "page.md"
    table = results.table(("a", "b"), [(1, "x")])

    results.write_page(path, "Title", "Text.", "", table)

    assert path.read_text() == (
        "# Title\n\nText.\n\n| a | b |\n| --- | --- |\n| 1 | x |\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["page.md"]
