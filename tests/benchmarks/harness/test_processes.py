"""Measurements in a process of their own."""

import os

import pytest
from harness import processes


def test_result_memory_and_environment_are_those_of_the_child():
    name, peak_mib = processes.run_alone(
        os.getenv, "CODEQ_TEST", environment={"CODEQ_TEST": "here"}
    )

    assert name == "here"
    assert peak_mib >= 0
    assert "CODEQ_TEST" not in os.environ


def test_failure_in_the_child_ends_the_benchmark():
    with pytest.raises(SystemExit, match="listdir failed"):
        processes.run_alone(os.listdir, "/no/such/folder")
