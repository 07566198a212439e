"""An example: studies are read, their findings argued about, and a brief is written until its editor approves."""
