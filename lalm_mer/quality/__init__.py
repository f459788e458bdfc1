"""Quality of a prepared corpus: what is measured, what is suspicious about it, and the report that says so."""
