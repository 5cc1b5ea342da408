"""Frozen CLIP encoders: which there are, where their weights lie, prompts for classes, embeddings of slices and text.

`models`, `prompts` and `weights` need no torch; `encoder`, `preprocessing` and `text` do.
"""
