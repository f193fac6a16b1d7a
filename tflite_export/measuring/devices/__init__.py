"""What `benchmark` measures: one file for each kind of device."""
