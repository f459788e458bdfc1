"""Schemas of the recipes' YAML files."""
