"""Tables, plots and HTML pages of trainings and evaluations."""
