"""Metrics and the choice of ensembles."""
