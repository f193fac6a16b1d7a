"""Measures files side by side, device by device."""
