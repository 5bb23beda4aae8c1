"""Run records and the rows of tables that they belong to. Reads JSON and YAML; needs no torch."""
