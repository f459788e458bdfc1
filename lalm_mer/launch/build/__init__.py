"""Builders of objects from settings."""
