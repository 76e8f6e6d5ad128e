"""The checks of `paced doctor`, a file each; `doctor/__init__.py` lists them."""
