"""The commands' entry points, a module for each subject."""
