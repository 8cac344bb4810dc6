"""What a transfer costs on a radio, and how its rate varies; `links.toml` holds the sourced rows."""
