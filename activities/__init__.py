"""Everything that touches the world for a run: agents, their executors, and the store of what they leave."""
