"""The two stages of training, and all that a training needs around them."""
