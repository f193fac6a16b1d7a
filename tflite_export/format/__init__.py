"""The file format: bytes to records and back. It decides nothing.

Only the files of this folder touch the TFLite schema.
"""
