"""`gate` holds files to limits, in the forms that a CI reads."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import junitparser
import numpy as np
import pytest
import yaml

from tflite_export.cli.commands import EXIT_ERROR, EXIT_NO, EXIT_OK, main
from tflite_export.measuring.devices import microcontroller
from tflite_export.measuring.devices.records import NotRun
from tflite_export.measuring.gate_report import parse_size

ROOT = Path(__file__).parents[3]


@pytest.fixture
def file(zoo):
    return zoo.result.path


def _gate(capsys, *arguments):
    code = main(["gate", *map(str, arguments)])
    return code, capsys.readouterr()


def _size(path):
    return path.stat().st_size


def test_a_kept_limit_ends_with_0_and_a_broken_one_with_1(file, capsys):
    kept, _ = _gate(capsys, file, "--max-bytes", _size(file))
    broken, text = _gate(capsys, file, "--max-bytes", _size(file) - 1)

    assert (kept, broken) == (EXIT_OK, EXIT_NO)
    assert "bytes (limit)" in text.out
    assert "FAILED" in text.out


def test_zeros_are_those_of_all_weights(file, capsys):
    code, text = _gate(capsys, file, "--min-sparsity", 0.99, "--json")

    (check,) = json.loads(text.out)["checks"]
    inspected = main(["inspect", str(file), "--json"])
    rows = json.loads(capsys.readouterr().out)["tensors"]
    weights = [r for r in rows if len(r["shape"]) > 1]
    sizes = [int(np.prod(r["shape"])) for r in weights]
    assert (code, inspected) == (EXIT_NO, EXIT_OK)
    zeros = sum(r["num_zeros"] for r in weights)
    assert check["value"] == zeros / sum(sizes)


def test_a_baseline_lets_nothing_get_worse(file, tmp_path, capsys):
    baseline = tmp_path / "base.json"
    _gate(capsys, file, "--write-baseline", baseline)
    held = json.loads(baseline.read_text())

    same, _ = _gate(capsys, file, "--baseline", baseline)
    held["bytes"] = round(held["bytes"] / 1.05)
    baseline.write_text(json.dumps(held))
    grown, text = _gate(capsys, file, "--baseline", baseline)
    allowed, _ = _gate(
        capsys, file, "--baseline", baseline, "--tolerance", 0.06
    )

    assert (same, grown, allowed) == (EXIT_OK, EXIT_NO, EXIT_OK)
    assert "bytes (baseline, 1.00%)" in text.out


def test_fewer_zeros_than_the_baseline_fail(file, tmp_path, capsys):
    baseline = tmp_path / "base.json"
    baseline.write_text('{"sparsity": 0.99}')

    code, _ = _gate(capsys, file, "--baseline", baseline)

    assert code == EXIT_NO


def test_agreement_is_with_the_reference_on_the_samples(
    file, zoo, tmp_path, capsys
):
    samples = tmp_path / "x.npy"
    np.save(samples, zoo.samples[0][:8])
    arguments = ("--reference", file, "--samples", samples)

    code, text = _gate(capsys, file, *arguments, "--min-agreement", 1, "--json")

    assert code == EXIT_OK, text.err
    assert json.loads(text.out)["measured"]["agreement"] == 1.0


def test_arena_and_cycles_come_from_their_tools(file, capsys):
    pytest.importorskip("tflite_micro")
    pytest.importorskip("ethosu.vela")
    limits = ("--max-arena", "1M", "--max-cycles", "100M")

    code, text = _gate(capsys, file, *limits, "--json")

    measured = json.loads(text.out)["measured"]
    assert code == EXIT_OK, text.err
    assert measured["arena_bytes"] > 8 * 8 * 8
    assert measured["cycles"] > 1000


def test_a_limit_whose_tool_is_missing_is_an_error(file, capsys, monkeypatch):
    missing = NotRun("tflm", "no package `tflite_micro`. Install it.")
    monkeypatch.setattr(microcontroller, "measure", lambda file: missing)

    code, text = _gate(capsys, file, "--max-arena", "32k")

    assert code == EXIT_ERROR
    assert "tell the arena. Received, on tflm: no package" in text.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give a limit"),
        (("--max-bytes", "100kB"), "Received: '100kB'"),
        (("--min-sparsity", "60"), "a fraction in [0, 1]"),
        (("--min-agreement", "0.9"), "need each other"),
    ],
)
def test_wrong_arguments_end_with_2(file, capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        _gate(capsys, file, *arguments)

    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("text", ['{"size": 3}', "[]", "{}", '{"bytes": "3"}'])
def test_another_file_than_a_baseline_is_named(file, tmp_path, capsys, text):
    path = tmp_path / "base.json"
    path.write_text(text)

    code, captured = _gate(capsys, file, "--baseline", path)

    assert code == EXIT_ERROR
    assert "Expected a baseline" in captured.err


def test_cycles_of_another_accelerator_are_not_compared(file, tmp_path, capsys):
    path = tmp_path / "base.json"
    path.write_text('{"cycles": 9, "accelerator": "ethos-u85-256"}')

    code, captured = _gate(capsys, file, "--baseline", path)

    assert code == EXIT_ERROR
    assert "Add `--accelerator ethos-u85-256`" in captured.err


def test_markdown_and_junit_say_the_same(file, tmp_path, capsys):
    table, xml = tmp_path / "out.md", tmp_path / "out.xml"
    limits = ("--max-bytes", "1k", "--min-sparsity", "0")

    code, _ = _gate(capsys, file, *limits, "--markdown", table, "--junit", xml)

    (suite,) = junitparser.JUnitXml.fromfile(str(xml))
    broken, kept = suite
    assert code == EXIT_NO
    assert (suite.tests, suite.failures, suite.errors) == (2, 1, 0)
    assert broken.result[0].message.startswith("bytes (limit)")
    assert kept.is_passed
    # The times and hosts of most writers would make each run's file new.
    attributes = {k for e in ElementTree.parse(xml).iter() for k in e.attrib}
    assert not attributes & {"time", "timestamp", "hostname"}
    lines = table.read_text().splitlines()
    assert lines[0].endswith("FAILED:")
    assert [line.count("|") for line in lines[2:]] == [6] * 4
    assert "FAILED" in lines[4]
    assert "FAILED" not in lines[5]


@pytest.mark.parametrize(
    ("text", "size"), [("7", 7), ("32.1k", 32100), ("0.5Mi", 2**19)]
)
def test_sizes_have_decimal_and_binary_suffixes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1K", "1 k", "0.5", "1e3", "k"])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match="Received"):
        parse_size(text)


def test_the_action_runs_the_command(file, tmp_path):
    action = yaml.safe_load(
        (ROOT / ".github" / "actions" / "gate" / "action.yml").read_text()
    )
    steps = action["runs"]["steps"]
    (step,) = [s for s in steps if "tflite-export gate" in s.get("run", "")]
    command = step["run"].replace(
        "tflite-export", f"{sys.executable} -m tflite_export"
    )
    summary = tmp_path / "summary.md"
    environment = {
        "MODEL": str(file),
        "LIMITS": "--max-bytes 1k",
        "GITHUB_STEP_SUMMARY": str(summary),
        "RUNNER_TEMP": str(tmp_path),
    }

    done = _shell(command, environment)

    assert action["runs"]["using"] == "composite"
    assert set(step["env"]) == {"MODEL", "LIMITS"}
    assert done.returncode == EXIT_NO, done.stderr
    assert "FAILED" in summary.read_text()


def test_the_hook_names_a_command_that_runs(file):
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    entry = hook["entry"].replace(
        "tflite-export", f"{sys.executable} -m tflite_export"
    )

    done = _shell(f"{entry} {file} --max-bytes 1M", {})

    assert hook["language"] == "python"
    assert hook["pass_filenames"] is False
    assert done.returncode == EXIT_OK, done.stderr


def test_the_commands_of_the_page_run(file, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tflite_micro")
    page = (ROOT / "docs" / "how_to" / "gate.md").read_text()
    commands = re.findall(r"^tflite-export (gate .*)$", page, re.MULTILINE)
    (tmp_path / "kws.tflite").write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)

    codes = [main(shlex.split(command)) for command in commands]

    capsys.readouterr()
    # Half of the zoo's codes are zeros, and the page asks for 60 %.
    assert codes == [EXIT_NO, EXIT_OK, EXIT_OK]


def _shell(command, environment):
    return subprocess.run(
        ["bash", "-e", "-c", command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
