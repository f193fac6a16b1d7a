"""MobileNet, MobileNetV2 and ResNet50 with TFMOT's API, to exact files."""

import numpy as np
import pytest
import tf_keras
from support.qat_models import compiled, quantize

import tflite_export
from codeq_keras import CoDeQConfig
from codeq_keras.tfmot import CompressionLogger

APPLICATIONS = {
    "MobileNet": {"alpha": 0.25},
    "MobileNetV2": {"alpha": 0.35},
    "ResNet50": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_application_trains_and_its_codes_are_exact(name, rng, tmp_path):
    model = getattr(tf_keras.applications, name)(
        weights=None,
        input_shape=(32, 32, 3),
        classes=10,
        **APPLICATIONS[name],
    )
    qat_model = compiled(quantize(model, CoDeQConfig(bit_width="learned")))
    x = rng.uniform(-1, 1, (32, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, 32)
    qat_model.fit(
        x, y, batch_size=16, verbose=0, callbacks=[CompressionLogger()]
    )

    result = tflite_export.export(
        qat_model, tmp_path / "model.tflite", representative_dataset=x
    )

    assert result.verification.codes_equal
    assert result.verification.num_tensors > 20
    assert not [note for note in result.notes if "float32" in note]
    assert np.isfinite(result.verification.max_output_lsb)
