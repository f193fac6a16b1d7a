"""Accuracy against cost: CoDeQ and its alternatives."""
