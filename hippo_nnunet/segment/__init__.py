"""From any T1 scan of a head, or a crop of one, to masks of both hippocampi in the scan's own grid; without torch."""
