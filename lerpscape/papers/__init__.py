"""Published studies: their sweeps, claims, figures and theory."""
