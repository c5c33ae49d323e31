"""Commands that are longer than a few lines, one file each; `cli.py` names them and calls them."""
