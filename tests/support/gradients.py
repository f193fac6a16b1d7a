"""Gradients of a function on the backend that is active."""

import keras
import numpy as np


def gradient(function, *arguments):
    """Gradients of a scalar function of arrays, on any backend."""
    tensors = [keras.ops.convert_to_tensor(a) for a in arguments]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        result = tape.gradient(value, tensors, unconnected_gradients="zero")
    else:
        import jax

        indices = tuple(range(len(tensors)))
        result = jax.grad(function, argnums=indices)(*tensors)
    return [np.asarray(r) for r in result]
