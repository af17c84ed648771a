"""Upscaling images, in the memory there is, without seams."""
