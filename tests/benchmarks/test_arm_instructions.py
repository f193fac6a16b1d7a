"""Random codes for the sparse kernels of ARM CPUs."""

import arm_instructions
import numpy as np


def test_zeros_come_in_blocks_of_neighbouring_channels():
    rng = np.random.default_rng(0)

    codes = arm_instructions.block_codes(rng, (1, 1, 200, 8), 0.8, block=4)

    blocks = np.abs(codes.reshape(-1, 4))
    assert set((blocks > 0).sum(1)) == {0, 4}
    # One standard error of 400 blocks is 0.02.
    assert abs(np.mean(codes == 0) - 0.8) < 0.06
    assert blocks.max() <= 7
