"""Photographs: finding, checking, packing and fetching them, and making training pairs of them."""
