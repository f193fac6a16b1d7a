"""A target is one class: the example of the docs is exported to and refuses."""

import re
from pathlib import Path

import keras
import pytest
from keras import layers
from support.plain import export_plain

from tflite_export import check
from tflite_export.targets import target as targets

DOCS = Path(__file__).parents[3] / "docs" / "architecture.md"


@pytest.fixture
def example(monkeypatch):
    """Registers the target of the docs for one test."""
    monkeypatch.setattr(targets, "_REGISTERED", dict(targets._REGISTERED))
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    exec(compile(code, str(DOCS), "exec"), {"__name__": "docs"})
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
