"""A target is one class: the example of the docs is exported to and refuses."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from keras import layers
from support.plain import export_plain

from tflite_export import benchmark, check
from tflite_export.targets import target as targets
from tflite_export.targets.target import find_target

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs" / "architecture.md"


def code_of_the_docs():
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return code


@pytest.fixture
def example(monkeypatch):
    """Registers the target of the docs for one test."""
    monkeypatch.setattr(targets, "_REGISTERED", dict(targets._REGISTERED))
    code = compile(code_of_the_docs(), str(DOCS), "exec")
    exec(code, {"__name__": "docs"})
    return "example-npu"


def network(layer):
    image = keras.Input((8, 8, 2))
    return keras.Model(image, layer(image))


def test_a_registered_target_gets_plain_int8(example, grid, rng, tmp_path):
    model = network(layers.Conv2D(4, 3))
    path = tmp_path / "model.tflite"

    result = export_plain(
        model,
        grid(model, rng),
        path,
        representative_dataset=rng.normal(size=(8, 8, 8, 2)),
        target=example,
    )

    assert result.verification.codes_equal
    assert result.other_files == ()
    assert check(path, target=example).is_ok


def test_a_registered_target_refuses_by_its_findings(
    example, grid, rng, tmp_path
):
    model = network(layers.Conv2DTranspose(4, 3))

    with pytest.raises(
        ValueError, match=r"(?s)run on the example NPU.*UpSampling2D and Conv2D"
    ):
        export_plain(
            model,
            grid(model, rng),
            tmp_path / "model.tflite",
            representative_dataset=rng.normal(size=(8, 8, 8, 2)),
            target=example,
        )

    assert list(tmp_path.iterdir()) == []
    report = check(model, target=example)
    assert not report.is_ok
    assert "TRANSPOSE_CONV" in str(report)


def test_a_registered_target_refuses_other_storages(example):
    with pytest.raises(ValueError, match="The example NPU runs dense int8"):
        targets.find_target(example).require_storage("sparse")


@pytest.mark.parametrize("wrong", ["npu", targets.Target()])
def test_a_target_without_a_class_or_a_name_is_refused(wrong):
    with pytest.raises(ValueError, match="`name` and a `title`"):
        targets.register_target(wrong)


def test_the_example_of_the_docs_may_stand_in_the_package():
    name = "tflite_export/targets/example_npu.py"

    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--stdin-filename", name, "-"],
        input=code_of_the_docs(),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout


def test_a_class_in_place_of_a_name_is_told_to_register():
    with pytest.raises(ValueError, match="Call `register_target` with it"):
        targets.find_target(targets.Target)


def test_a_target_is_measured_where_it_says_or_the_reason_is_told(
    example, dense_path
):
    report = benchmark(dense_path, targets=[example])

    assert "not run on example-npu" in str(report)
    assert "names no `devices`" in str(report)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("edgetpu,max_arena_bytes=9", "'edgetpu' can have no settings"),
        ("litert,accelerator=tpu", "must be one of ('cpu', 'gpu', 'npu')"),
        ("tflm,ram=9", "settings, each as ',name=value': 'max_arena_bytes'"),
        ("tflm,max_arena_bytes", "each as ',name=value'"),
        ("tflm,max_arena_bytes=-1", "a whole number of bytes above 0"),
    ],
)
def test_wrong_settings_are_refused_by_name(name, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        find_target(name)


def test_settings_do_not_change_the_registered_target():
    find_target("tflm, max_arena_bytes=9000")
    assert find_target("tflm") is find_target("tflm")
    assert find_target("tflm")._arena is None
