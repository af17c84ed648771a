"""ESRGAN (Wang et al. 2018) in PyTorch Lightning and Hydra."""
