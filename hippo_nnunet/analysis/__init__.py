"""What is concluded from an experiment: comparison, volumes, times."""
