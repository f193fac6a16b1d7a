"""Accuracy against multiply-accumulates: channels removed, or fewer at once."""
