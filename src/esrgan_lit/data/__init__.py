"""Images → batches of pairs of low and high resolution."""
