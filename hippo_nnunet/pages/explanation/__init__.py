"""The explanation of a prediction."""
