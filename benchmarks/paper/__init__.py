"""The CoDeQ paper's own trainings."""
