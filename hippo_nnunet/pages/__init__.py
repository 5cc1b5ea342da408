"""HTML pages and figures, one folder per product."""
