"""The Snakemake workflow behind `hippo-nnunet run`."""
