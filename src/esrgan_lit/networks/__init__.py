"""The generators and the discriminator of ESRGAN (Wang et al. 2018, arXiv:1809.00219)."""
