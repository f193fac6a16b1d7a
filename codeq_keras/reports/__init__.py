"""Results of a compression as records, text and pictures."""
