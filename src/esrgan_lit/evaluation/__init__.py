"""Methods on test sets, scored."""
