"""Arm's Ethos-U microNPUs, compiled by Vela."""
