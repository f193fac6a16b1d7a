"""Exports a plain model whose kernels were put on a grid by the test."""

from tflite_export.exporting import export_trained
from tflite_export.trained_model import read_plain


def read_samples(model, weights, samples):
    """The model as the export reads it, with samples."""
    trained = read_plain(model, weights)
    return trained.with_dataset(samples, argument="representative_dataset")


def export_plain(model, weights, path, *, representative_dataset, **options):
    """`export` for a model and its trained weights by path."""
    trained = read_samples(model, weights, representative_dataset)
    return export_trained(trained, path, **options)
