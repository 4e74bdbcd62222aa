"""Cells in memory and on disk: reading by rows, mini-batches, h5ad files."""
