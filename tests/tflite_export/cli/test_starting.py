"""Commands on files start fast, and without a word of TensorFlow."""

import os
import statistics
import subprocess
import sys

import pytest
from support.foreign import FILES

NUMPY = ("-c", "import numpy")
NUM_ROUNDS = 5
MAX_RATIO = 3.0
# Ratios of CPU time move by a sixth while other processes take the caches.
TOLERANCE = 1.2
COMMANDS = {
    "help": ("--help",),
    "help of a command": ("benchmark", "--help"),
    "inspect": ("inspect", "{file}"),
    "gate": ("gate", "{file}", "--max-bytes", "100k"),
    # LiteRT itself runs a file for `litert`; that is work, not start.
    "check": ("check", "{file}", "--target", "edgetpu"),
    "benchmark": ("benchmark", "no.tflite"),
}
LOADED = """
import sys
from tflite_export.cli.commands import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
heavy = {"keras", "tensorflow", "codeq_keras", "matplotlib", "rich"}
heavy |= {"ai_edge_litert.interpreter"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("starting") / "model.tflite"
    path.write_bytes(FILES["zero_point_of_uint8"]())
    return path


def _words(command, file):
    return [word.format(file=file) for word in COMMANDS[command]]


def _cpu_seconds(arguments):
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


def test_commands_start_in_three_times_the_import_of_numpy(file):
    times = {name: [] for name in ("numpy", *COMMANDS)}
    # In turn, so that a slow moment meets all of them.
    for _ in range(NUM_ROUNDS):
        times["numpy"].append(_cpu_seconds(NUMPY))
        for name in COMMANDS:
            words = ("-m", "tflite_export", *_words(name, file))
            times[name].append(_cpu_seconds(words))

    median = {name: statistics.median(each) for name, each in times.items()}
    limit = MAX_RATIO * TOLERANCE * median["numpy"]
    slow = {name: s for name, s in median.items() if s > limit}
    assert not slow, (slow, median["numpy"])


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_load_no_framework_and_say_nothing_of_one(file, command):
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *_words(command, file)],
        capture_output=True,
        text=True,
        check=True,
    )

    *told, loaded = done.stderr.splitlines()
    assert loaded == "[]"
    assert all(line.startswith("error: ") for line in told), told
