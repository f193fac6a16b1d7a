"""`python benchmarks NAME`: one command for every benchmark."""

import importlib
import re
import runpy
import subprocess
import sys

import pytest
from harness import cli

BENCHMARKS = cli.RESULTS.parent
MODULES = runpy.run_path(str(BENCHMARKS / "__main__.py"))["MODULES"]


def test_every_benchmark_has_a_row_in_the_readme():
    readme = (BENCHMARKS / "README.md").read_text()

    assert re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE) == list(MODULES)


@pytest.mark.parametrize("module", MODULES.values())
def test_every_benchmark_tells_its_options(module, capsys):
    with pytest.raises(SystemExit) as error:
        importlib.import_module(module).main(["--help"])

    assert error.value.code == 0
    assert "--output" in capsys.readouterr().out


def test_unknown_name_is_refused_with_those_that_there_are():
    result = subprocess.run(
        [sys.executable, BENCHMARKS, "speed"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 1
    assert "accuracy, channels, channel_files" in result.stderr
    assert "Received: 'speed'" in result.stderr


def test_smoke_changes_defaults_but_not_what_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"epochs": 12, "models": ["a", "b"], "limit": int}
    smoke = {"epochs": 1, "models": ["a"]}

    plain = cli.parse("x", "", ["--output", "here"], smoke=smoke, **options)
    quick = cli.parse(
        "x", "", ["--smoke", "--models", "b", "a"], smoke=smoke, **options
    )

    assert (plain.epochs, plain.models, plain.limit) == (12, ["a", "b"], None)
    assert (quick.epochs, quick.models) == (1, ["b", "a"])
    assert quick.output == cli.SMOKE_RESULTS
