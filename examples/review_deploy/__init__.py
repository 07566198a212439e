"""An example: a patch is reviewed, staged, tested and switched to, and taken back where its tests fail."""
