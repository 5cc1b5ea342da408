"""The colours of all pages and figures."""

from __future__ import annotations

INK, LINE, PAPER = "#24292f", "#d3d9df", "#fefefe"
GREY = "#7d8590"
MARK = "#c23b22"
LABEL_COLOURS = ("#d9a400", "#9b5de5", "#e0529c", "#7fb800", "#00b4b4", "#b9ce7a")
"""Gold, violet, pink, lime, turquoise, sage: on every page, in tones that stand out on white, black and grey images."""
MODEL_COLOURS = ("#0072b2", "#d0431c", "#00805c", "#5b6570", "#1f3f8f", "#8c4a1f", "#2a8fd0", "#1d2125")
"""Blue, vermilion, green, slate, navy, brown, sky, black: no model looks like a label; markers differ as well."""
MODEL_COLOURS_DARK = ("#5cb3f0", "#ff8a66", "#2fc79a", "#b4bdc7", "#8fa8ff", "#d99a6c", "#a9dcff", "#f4f6f8")
"""The same hues, lightened for a dark ground."""
REFERENCE = "#ffffff"
"""Over an image, the reference has a solid white outline and a prediction a dashed one, each with a dark edge."""


def label_colour(index: int) -> str:
    """Return the colour of the label at a position; the colours repeat after six."""
    return LABEL_COLOURS[index % len(LABEL_COLOURS)]
