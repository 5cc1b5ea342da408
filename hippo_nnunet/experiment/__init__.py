"""What an experiment is on disk: request, presets, markers, manifest."""
