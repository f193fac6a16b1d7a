"""The measures of `benchmark`, one file for each kind of device."""
