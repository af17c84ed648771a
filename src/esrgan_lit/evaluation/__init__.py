"""Evaluation: test sets, methods, scores, and the report on them (``esrgan-evaluate``)."""
