"""Models that predict one number per target."""
