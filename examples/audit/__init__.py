"""Audits a Python source tree: what is wrong, where it is worst, where to begin."""
