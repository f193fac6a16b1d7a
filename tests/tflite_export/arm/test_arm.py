"""What runs on an emulated AArch64 CPU, and how many instructions it takes."""

import numpy as np
import pytest

from tflite_export import arm
from tflite_export.arm import emulator, setup_root
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter

needs_arm = pytest.mark.skipif(
    arm.missing() is not None, reason=str(arm.missing())
)


@pytest.fixture(scope="module")
def int8_file(sparse_convolutions, export_grid_model, tmp_path_factory):
    """A file and a few samples for it, in its types."""
    folder = tmp_path_factory.mktemp("arm")
    exported = export_grid_model(*sparse_convolutions, folder)
    data = exported.result.path.read_bytes()
    samples = [array[:3] for array in exported.samples]
    inputs = interpreter.quantized_inputs(Flatbuffer(data), samples, ["image"])
    return data, inputs


@needs_arm
def test_int8_outputs_on_arm_are_those_on_this_machine(int8_file):
    data, inputs = int8_file

    expected = interpreter.run(data, inputs)
    actual = arm.run(data, inputs)

    assert actual.keys() == expected.keys()
    for index, values in expected.items():
        assert len(values) == 3
        np.testing.assert_array_equal(actual[index], values)


@needs_arm
def test_a_core_with_dot_product_executes_fewer_instructions(int8_file):
    counts = [arm.count_instructions(*int8_file, cpu=cpu) for cpu in arm.CPUS]

    # 1.2 million multiplications: neither free nor one instruction each.
    assert 50_000 < counts[1] < 0.8 * counts[0] < 1_200_000


@needs_arm
def test_a_file_that_cannot_run_is_an_error(int8_file):
    data, inputs = int8_file
    too_many = {index: values[:, :4] for index, values in inputs.items()}

    with pytest.raises(ValueError, match="that the runtime can run"):
        arm.run(data, too_many)


def test_unknown_cpu_is_named(int8_file):
    with pytest.raises(ValueError, match="Received: cpu='cortex-m4'"):
        arm.run(*int8_file, cpu="cortex-m4")


def test_missing_says_what_to_run(monkeypatch, tmp_path, int8_file):
    monkeypatch.setenv("TFLITE_EXPORT_ARM_ROOT", str(tmp_path / "none"))

    assert "Run `make arm`" in arm.missing()
    with pytest.raises(RuntimeError, match="is not set up"):
        arm.run(*int8_file)


def test_a_root_of_other_versions_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("TFLITE_EXPORT_ARM_ROOT", str(tmp_path))
    (tmp_path / emulator.MANIFEST).write_text('{"ai-edge-litert": "1.0"}')

    assert "was set up for {'ai-edge-litert': '1.0'}" in arm.missing()


def test_setting_up_names_absent_tools_and_leaves_nothing(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(RuntimeError, match="no apt-get, no dpkg-deb, no gcc"):
        setup_root.set_up(tmp_path / "root", lambda line: None)
    assert not list(tmp_path.iterdir())
