"""Data for the examples and benchmarks, through `tensorflow-datasets`.

`shapes` and `keywords` are synthetic and made on this machine; the others are
public data sets that are read where the user has them. `fashion_mnist` is read
from Debian's package `dataset-fashion-mnist`, or from the folder that the
variable FASHION_MNIST names, and downloaded without either. `machine_sounds`, a
synthetic one for the detection of anomalies, has no classes to learn: take its
`generate` or its builder. TensorFlow is not
needed to read or to make any of them, except for `imagenet2012`,
`speech_commands` and a downloaded `fashion_mnist`, which `tensorflow-datasets`
itself prepares with it.
"""

from datasets.loader import DATASETS, ImageBatches, load, load_batches

__all__ = ["DATASETS", "ImageBatches", "load", "load_batches"]
