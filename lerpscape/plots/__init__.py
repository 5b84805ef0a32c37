"""Pictures of results, and several results as one HTML page."""
