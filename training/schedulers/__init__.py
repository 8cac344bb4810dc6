"""When is an update worth its energy? One policy a file, and the table that lists them."""
