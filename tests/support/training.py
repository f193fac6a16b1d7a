"""One way to compile and fit a classifier in the tests."""

import keras


def compile_and_fit(model, data, *, epochs=2, optimizer="adam", **kwargs):
    fit = {k: kwargs.pop(k) for k in ("callbacks",) if k in kwargs}
    model.compile(
        optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **kwargs,
    )
    return model.fit(*data, epochs=epochs, batch_size=16, verbose=0, **fit)
