"""How a low-resolution image is made of a high-resolution one."""
