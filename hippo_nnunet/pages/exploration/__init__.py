"""The exploration of a dataset."""
