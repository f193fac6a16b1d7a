"""A subclassed model and custom layers, unknown to Keras's registry."""

import keras


class ScaledDense(keras.layers.Layer):
    """A custom layer with its own kernel, a loss and a buffer."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.kernel = self.add_weight(
            (input_shape[-1], self.units), name="kernel"
        )
        self.num_calls = self.add_weight(
            (), initializer="zeros", trainable=False, name="num_calls"
        )

    def call(self, inputs, training=None):
        if training:
            self.num_calls.assign(self.num_calls + 1)
        outputs = inputs @ self.kernel
        self.add_loss(1e-3 * keras.ops.mean(outputs**2))
        return outputs

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Affine(keras.layers.Layer):
    """A Dense of the user's own, whose code no rewrite can change."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        shape = (input_shape[-1], self.units)
        self.kernel = self.add_weight(shape, name="kernel")
        self.bias = self.add_weight((self.units,), name="bias")

    def call(self, inputs):
        return inputs @ self.kernel + self.bias

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class SubclassedModel(keras.Model):
    """A convolution, BatchNorm, the custom layer and a list of layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = keras.layers.Conv2D(4, 3, kernel_regularizer="l2")
        self.norm = keras.layers.BatchNormalization()
        self.scaled = ScaledDense(5)
        self.heads = [keras.layers.Dense(5), keras.layers.Dense(3)]

    def call(self, inputs, training=None):
        x = keras.ops.relu(self.norm(self.conv(inputs), training=training))
        x = self.scaled(keras.ops.mean(x, axis=(1, 2)))
        for head in self.heads:
            x = head(x)
        return x

    def get_config(self):
        return keras.Layer.get_config(self)


class TokenAndPosition(keras.layers.Layer):
    """The first layer of a text Transformer: the sum of two Embeddings."""

    def __init__(self, vocabulary, length, width, **kwargs):
        super().__init__(**kwargs)
        self.sizes = (vocabulary, length, width)
        self.token = keras.layers.Embedding(vocabulary, width)
        self.position = keras.layers.Embedding(length, width)

    def build(self, input_shape):
        self.token.build(input_shape)
        self.position.build(input_shape)

    def call(self, tokens):
        positions = keras.ops.arange(tokens.shape[-1])
        return self.token(tokens) + self.position(positions)

    def get_config(self):
        names = ("vocabulary", "length", "width")
        return super().get_config() | dict(zip(names, self.sizes, strict=True))


class Floor(keras.layers.Layer):
    """An operator that neither Vela nor the Edge TPU has."""

    def call(self, inputs):
        return keras.ops.floor(inputs)
