"""Pages of measured speed."""
