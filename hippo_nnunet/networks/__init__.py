"""Networks: plain torch modules that know nothing of trainers or files."""
