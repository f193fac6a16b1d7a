"""Which pairs count, and when a number is right about one."""

import advice
import numpy as np


def cost(path, loss, spread, **snrs):
    each = loss + spread * np.tile([-1.0, 1.0], 500)
    return advice.Cost(path, snrs, {"divergence": each})


def test_lower_snr_is_right_where_it_costs_more_than_noise():
    costs = [
        cost("a", 0.9, 0.0, weights=5.0, layer=9.0, model=3.0),
        cost("b", 0.1, 0.0, weights=4.0, layer=9.5, model=8.0),
        cost("c", 0.101, 1.0, weights=1.0, layer=1.0, model=1.0),
    ]

    num_pairs, right = advice.judge(costs, "divergence")

    # The second pair differs by less than its noise.
    assert num_pairs == 1
    assert right == {"weights": 0, "layer": 1, "model": 1}
