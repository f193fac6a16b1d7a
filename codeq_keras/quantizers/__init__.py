"""The trained state of quantizers, and what is deployed of it."""
