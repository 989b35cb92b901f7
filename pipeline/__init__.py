"""From a manifest to committed label cells, and back to samples."""
