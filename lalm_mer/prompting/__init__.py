"""Prompts: prompt files, conversations with audio slots, ensembles, and parsing of free-text answers."""
