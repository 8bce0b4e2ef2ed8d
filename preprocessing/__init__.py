"""Pure functions on arrays and encoded bytes. Opens no file."""
