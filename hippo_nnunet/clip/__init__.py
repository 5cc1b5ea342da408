"""Frozen CLIP encoders: the known models, their weight files, prompts for classes, embeddings of slices and text.

`models`, `prompts` and `weights` need no torch; `encoder`, `preprocessing` and `text` do.
"""
