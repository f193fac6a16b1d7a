"""Data for the examples and benchmarks, through `tensorflow-datasets`.

`shapes` and `keywords` are synthetic and made on this machine; the others are
public data sets that are read where the user has them. `machine_sounds`, a
synthetic one for the detection of anomalies, has no classes to learn: take its
`generate` or its builder. TensorFlow is not
needed to read or to make any of them, except for `imagenet2012` and
`speech_commands`, which `tensorflow-datasets` itself prepares with it.
"""

from datasets.loader import DATASETS, ImageBatches, load, load_batches

__all__ = ["DATASETS", "ImageBatches", "load", "load_batches"]
