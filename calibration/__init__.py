"""How do we know? Microbenchmarks, observations, the fit, and the profiles that ship."""
