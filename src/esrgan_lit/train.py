"""``python -m esrgan_lit.train``: ``esrgan-train`` where only the module is at hand."""

from esrgan_lit.cli.train import main

if __name__ == "__main__":
    main()
