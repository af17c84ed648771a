"""Hydra's configuration of the trainings, installed as ``esrgan_lit.conf``."""
