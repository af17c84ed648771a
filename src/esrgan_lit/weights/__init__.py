"""Generators' weights: read, written, interpolated, published, exported."""
