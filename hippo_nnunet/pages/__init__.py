"""HTML pages and figures, one folder a product."""
