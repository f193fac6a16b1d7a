"""`quantize_model(quantizer=)`: another quantizer in front of every kernel."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from support.training import compile_and_fit

import codeq_keras
from codeq_keras import CoDeQConfig, DeadZoneQuantizer, QuantizedWeight


@keras.saving.register_keras_serializable(package="tests")
class LearnedStep(keras.layers.Layer):
    """Rounds to the nearest of 15 levels; the optimizer moves their step."""

    bit_width, num_scales = 4, 1

    def __init__(self, config, *, axis=None, name=None):
        super().__init__(name=name, dtype="float32")
        self.config = config

    def build(self, kernel_shape):
        self.step = self.add_weight(shape=(), initializer=lambda *_, **__: 0.1)

    def codes(self, weights):
        return ops.clip(ops.round(weights / self.step), -7, 7)

    def call(self, weights):
        weights = ops.convert_to_tensor(weights)
        codes = ops.stop_gradient(self.codes(weights) - weights / self.step)
        return (weights / self.step + codes) * self.step

    def zero_fraction(self, weights):
        return ops.mean(ops.cast(self.codes(weights) == 0, "float32"))

    def quantized_weight(self, weights):
        codes = ops.convert_to_numpy(self.codes(weights)).astype("int8")
        return QuantizedWeight(codes, np.array(self.step, "float32"), 4, None)


@keras.saving.register_keras_serializable(package="tests")
class Scaled(DeadZoneQuantizer):
    """A dead zone whose values the optimizer also scales."""

    def build(self, input_shape):
        super().build(input_shape)
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")

    def call(self, weights):
        return self.gain * super().call(weights)


def trained(model, data, kind):
    qmodel = codeq_keras.quantize_model(model, quantizer=kind)
    compile_and_fit(qmodel, data)
    return qmodel


@pytest.mark.parametrize("kind", [LearnedStep, Scaled])
def test_its_own_variables_train_and_survive_saving(cnn, data, tmp_path, kind):
    qmodel = trained(cnn, data, kind)
    name, first = ("step", 0.1) if kind is LearnedStep else ("gain", 1.0)

    qmodel.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")

    for kernel, copy in zip(qmodel.kernels, loaded.kernels, strict=True):
        assert type(copy.quantizer) is kind
        value = float(getattr(kernel.quantizer, name))
        assert value != pytest.approx(first, abs=1e-6)
        assert float(getattr(copy.quantizer, name)) == value
    np.testing.assert_array_equal(
        ops.convert_to_numpy(loaded(data[0])),
        ops.convert_to_numpy(qmodel(data[0])),
    )


def test_report_and_codes_are_its_own(cnn, data):
    qmodel = trained(cnn, data, LearnedStep)

    report = codeq_keras.report(qmodel)
    stripped = codeq_keras.strip_quantizers(qmodel)

    weights = codeq_keras.quantized_weights(qmodel)
    zeros = sum(np.sum(weight.codes == 0) for weight in weights.values())
    size = sum(weight.codes.size for weight in weights.values())
    assert report.sparsity == pytest.approx(zeros / size)
    assert report.mean_bit_width == 4
    np.testing.assert_allclose(
        ops.convert_to_numpy(stripped.get_layer("head").kernel),
        weights["head/kernel"].dequantize(),
        rtol=1e-6,
    )


def test_dead_zones_of_another_class_meet_a_budget(wide_cnn, data):
    qmodel = codeq_keras.quantize_model(wide_cnn, quantizer=Scaled)
    budget = codeq_keras.CompressionBudget(sparsity=0.7)

    compile_and_fit(qmodel, data, epochs=80, callbacks=[budget])

    assert codeq_keras.report(qmodel).sparsity == pytest.approx(0.7, abs=5e-3)
    assert len(qmodel.states) == 1


def test_function_makes_the_quantizers(cnn):
    def make(config, *, axis, name):
        return DeadZoneQuantizer(CoDeQConfig(bit_width=2), name=name)

    qmodel = codeq_keras.quantize_model(cnn, quantizer=make)

    assert codeq_keras.report(qmodel).mean_bit_width == 2


def test_class_that_is_not_registered_is_named_at_loading(cnn, tmp_path):
    class Unknown(DeadZoneQuantizer):
        pass

    qmodel = codeq_keras.quantize_model(cnn, quantizer=Unknown)
    qmodel.save(tmp_path / "model.keras")

    with pytest.raises(ValueError, match="Received: a model with 'Unknown'"):
        keras.saving.load_model(tmp_path / "model.keras")
    known = {"Unknown": Unknown}
    keras.saving.load_model(tmp_path / "model.keras", custom_objects=known)


def test_layer_that_is_no_quantizer_is_refused(cnn):
    def layer(config, *, axis, name):
        return keras.layers.Identity(name=name)

    with pytest.raises(ValueError, match="Received: a Identity without bit"):
        codeq_keras.quantize_model(cnn, quantizer=layer)


def test_quantizer_without_a_name_is_refused_when_saved(cnn, tmp_path):
    kind = functools.partial(DeadZoneQuantizer)
    qmodel = codeq_keras.quantize_model(cnn, quantizer=kind)

    with pytest.raises(ValueError, match="function with a name"):
        qmodel.save(tmp_path / "model.keras")
