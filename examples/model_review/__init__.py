"""An example: agents with a model review a patch, ask a specialist, and post the review if a person agrees."""
