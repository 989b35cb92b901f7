"""What a user runs: the command line, job files, progress, previews."""
