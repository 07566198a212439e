"""What perdure's verbs cost beside the same work written by hand."""
