"""Quantizers of kernels: their trained state and their integers."""
