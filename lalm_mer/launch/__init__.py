"""Recipes from the command line to the run folder: settings, builders of objects from them, and runs."""
