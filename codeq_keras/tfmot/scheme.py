"""CoDeQScheme: TFMOT's default 8-bit scheme with CoDeQ on every kernel."""

from typing import Any

import tf_keras
from tensorflow_model_optimization.quantization import keras as tfmot
from tensorflow_model_optimization.quantization.keras import default_8bit
from tensorflow_model_optimization.quantization.keras.graph_transformations import (  # noqa: E501
    model_transformer,
)

from codeq_keras.config import (
    CoDeQConfig,
    Overrides,
    first_match,
    require_config,
    require_overrides,
    require_patterns,
)
from codeq_keras.tfmot.dense_batch_norm import dense_batch_norm_transforms
from codeq_keras.tfmot.quantize_config import (
    DeadZoneQuantizeConfig,
    kernel_name,
)
from codeq_keras.training.regularizer import (
    CompressionRegularizer,
    require_regularizer,
)

QuantizeMap = dict[str, dict[str, Any]]


class CoDeQScheme(tfmot.QuantizeScheme):
    """TFMOT's default 8-bit scheme with CoDeQ on every kernel.

    Activations are quantized to 8 bits where TFMOT's default scheme does it.
    It does better for the kernels: a Conv2D, DepthwiseConv2D or Dense
    directly in front of a ReLU layer is quantized too (TFMOT skips it); one
    that feeds a Concatenate gets CoDeQ; and Dense + BatchNormalization
    becomes a 1x1 convolution with the same outputs, since the converter
    leaves the Dense in float.

    Args:
        config: `CoDeQConfig` of every kernel, or None for its defaults.
        overrides: Map from a regular expression, searched in the path of a
            kernel such as `"stem/kernel"`, to the `CoDeQConfig` it gets
            instead, or to None for TFMOT's 8 bits. The first match wins. A
            `DeadZoneQuantizeConfig` annotated on a layer wins over all.
        regularizer: `CompressionRegularizer` with penalties on the logits, or
            None; not needed with a `CompressionBudget`.

    Raises:
        ValueError: In `quantize_apply`, if an override matches no kernel.

    Example:

    >>> head = tf_keras.layers.Dense(2, input_shape=(4,), name="head")
    >>> model = tf_keras.Sequential([head])
    >>> annotated = tfmot.quantize_annotate_model(model)
    >>> qat_model = tfmot.quantize_apply(annotated, scheme=CoDeQScheme())
    >>> qat_model.layers[-1].name
    'quant_head'
    """

    def __init__(
        self,
        config: CoDeQConfig | None = None,
        *,
        overrides: Overrides | None = None,
        regularizer: CompressionRegularizer | None = None,
    ) -> None:
        self.config = require_config(config)
        self.overrides = require_overrides(overrides)
        self.regularizer = require_regularizer(regularizer)

    def get_layout_transformer(self) -> tfmot.QuantizeLayoutTransform:
        """Returns what prepares a model for the converter."""
        return _LayoutTransform(self)

    def get_quantize_registry(self) -> tfmot.QuantizeRegistry:
        """Returns what finds the QuantizeConfig of a layer."""
        return _Registry(self)

    def quantize_config(
        self, layer: tf_keras.layers.Layer
    ) -> DeadZoneQuantizeConfig | None:
        """Returns the config of a layer's kernel."""
        path = kernel_path(layer)
        if path is None:
            return None
        config = first_match(path, self.overrides, self.config)
        if config is None:
            return None
        return DeadZoneQuantizeConfig(config, regularizer=self.regularizer)


def kernel_path(layer: tf_keras.layers.Layer) -> str | None:
    """Returns the path of a layer's kernel, None without one.

    Example:

    >>> kernel_path(tf_keras.layers.Dense(2, name="head"))
    'head/kernel'
    """
    name = kernel_name(layer)
    return None if name is None else f"{layer.name}/{name}"


class _Registry(default_8bit.Default8BitQuantizeRegistry):
    """TFMOT's registry; kernels get the scheme's config."""

    def __init__(self, scheme: CoDeQScheme) -> None:
        super().__init__()
        self.scheme = scheme

    def get_quantize_config(
        self, layer: tf_keras.layers.Layer
    ) -> tfmot.QuantizeConfig:
        default = super().get_quantize_config(layer)
        return self.scheme.quantize_config(layer) or default


class _LayoutTransform(tfmot.QuantizeLayoutTransform):
    """TFMOT's transforms, with its treatment of kernels put right."""

    def __init__(self, scheme: CoDeQScheme) -> None:
        self.scheme = scheme

    def apply(
        self, model: tf_keras.Model, layer_quantize_map: QuantizeMap
    ) -> tuple[tf_keras.Model, QuantizeMap]:
        given = {
            name: metadata.get("quantize_config")
            for name, metadata in layer_quantize_map.items()
        }
        # TFMOT leaves a layer with a config of its own out of every pattern,
        # so a convolution would be cut off from its BatchNormalization. Ours
        # fits into the patterns: it steps aside and returns afterwards.
        ours = {
            name: config
            for name, config in given.items()
            if isinstance(config, DeadZoneQuantizeConfig)
        }
        metadata = {
            name: {**entry, "quantize_config": None} if name in ours else entry
            for name, entry in layer_quantize_map.items()
        }
        model, metadata = model_transformer.ModelTransformer(
            model, dense_batch_norm_transforms(), set(metadata), metadata
        ).transform()
        default = default_8bit.Default8BitQuantizeLayoutTransform()
        model, metadata = default.apply(model, metadata)
        paths = {layer.name: kernel_path(layer) for layer in model.layers}
        kernels = {
            layer.name: layer for layer in model.layers if paths[layer.name]
        }
        require_patterns(
            "overrides", self.scheme.overrides, filter(None, paths.values())
        )
        for name, layer in kernels.items():
            is_foreign = given.get(name) is not None and name not in ours
            if name in metadata and not is_foreign:
                entry = metadata[name]
                entry["quantize_config"] = self._kernel_config(
                    layer, ours.get(name), entry.get("quantize_config")
                )
        return model, metadata

    def _kernel_config(
        self,
        layer: tf_keras.layers.Layer,
        annotated: DeadZoneQuantizeConfig | None,
        default: tfmot.QuantizeConfig | None,
    ) -> tfmot.QuantizeConfig:
        """The config of a kernel, whatever TFMOT's transforms made of it."""
        config = annotated or self.scheme.quantize_config(layer)
        # In front of a ReLU layer TFMOT quantizes nothing, so that the
        # activation stays fusible; but the kernel must not be left out.
        is_skipped = default is not None and not (
            default.get_weights_and_quantizers(layer)
        )
        fuses = is_skipped and layer.get_config()["activation"] == "linear"
        if config is not None:
            return config.weights_only() if fuses else config
        stock = default_8bit.Default8BitQuantizeRegistry().get_quantize_config(
            layer
        )
        if fuses:
            stock = type(stock)(stock.weight_attrs, [], False)
        return stock
