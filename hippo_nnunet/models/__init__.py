"""Model files: the `.hippo` container, its weights and its plans."""
