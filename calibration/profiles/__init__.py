"""Device profiles, one TOML a device, read through `budjoule.energy.device.load_profile`."""
