"""The subcommands of `perdure`, one module for each kind of thing a person does; starter.py holds their table."""
