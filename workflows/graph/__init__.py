"""Stage graphs: what people write, how it is checked, and what it means."""
