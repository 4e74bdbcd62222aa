"""Figures of RMVE's results, from AnnData keys alone."""
