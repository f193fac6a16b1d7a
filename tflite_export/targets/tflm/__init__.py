"""Microcontrollers, with LiteRT for Microcontrollers."""
