"""Networks: plain torch modules, independent of trainers and files."""
