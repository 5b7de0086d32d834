"""One command that checks HAT-Net on a GPU."""
