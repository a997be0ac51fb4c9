"""The laboratory: data, models, training runs, experiments and the run page."""
