"""What a compression has reached, as records, text and pictures."""
