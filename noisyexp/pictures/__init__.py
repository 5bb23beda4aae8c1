"""Pictures: of units, of curves from run records, of attention."""
