"""What `pyddl.models.Torch` is made of: these files import PyTorch at the top, and only it loads them."""
