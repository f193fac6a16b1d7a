"""Compression without training: from a trained network and some samples."""
