"""An example: incident reports that nobody has seen yet are assessed, and handed to whoever must know."""
