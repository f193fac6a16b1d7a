"""Every example runs as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "end", "files"),
    [
        (
            "quickstart",
            "Wrote digits.tflite and report.txt, .png and .html to artifacts/.",
            ("artifacts/digits.tflite", "artifacts/report.html"),
        ),
        ("tfmot_migration", "tensors equal", ("digits.tflite",)),
        ("keras3_to_tfmot", "same codes: True", ()),
        ("without_training", "tensors equal", ("artifacts/untrained.tflite",)),
    ],
)
def test_example_runs(tmp_path, name, end, files):
    result = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "--smoke"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert end in " ".join(result.stdout.split())
    for file in files:
        assert (tmp_path / file).stat().st_size > 0


def test_every_example_is_run():
    names = {path.stem for path in EXAMPLES.glob("*.py")}

    assert names == {
        "quickstart",
        "tfmot_migration",
        "keras3_to_tfmot",
        "without_training",
    }
