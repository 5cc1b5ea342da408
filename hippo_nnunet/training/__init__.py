"""Recipe words, losses, augmentation, schedules and the in-memory data pipeline."""
