"""Image files and arrays: listing, reading, writing, and the only conversions between levels and tensors."""
