"""The page on which a person checks every segmented scan by eye; imports neither torch nor matplotlib."""
