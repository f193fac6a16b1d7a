"""Scores of networks."""

import numpy as np
from harness import workload


def test_accuracy_is_the_fraction_of_right_answers():
    logits = np.array([[1.0, 0.0], [0.0, 1.0], [0.2, 0.1]])

    found = workload.accuracy(logits, logits, np.array([0, 1, 1]))

    assert found == 2 / 3


def test_auc_counts_the_pairs_that_the_error_orders():
    x = np.zeros((4, 1))
    outputs = np.array([[0.1], [0.3], [0.2], [0.4]])

    found = workload.reconstruction_auc(x, outputs, np.array([0, 0, 1, 1]))

    assert found == 3 / 4
