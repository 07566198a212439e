"""An example: a release is judged by its changelog, signed off by a person or by the clock, and published once."""
