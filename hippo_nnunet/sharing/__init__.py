"""Models as one file without pickle: written, checked, read, installed; and checkpoints loaded without running code."""
