"""How probable integers are: models with init, bits, tables and index, and what trains them."""
