"""How many clusters there are, and which: NumPy and pandas only."""
