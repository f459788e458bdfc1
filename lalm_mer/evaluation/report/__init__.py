"""Comparisons written for people: the terminal's table and one self-contained HTML file."""
