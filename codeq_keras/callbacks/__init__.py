"""What a user passes to `fit`."""
