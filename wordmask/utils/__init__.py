"""What every folder may use: errors, files, caches, worker processes, progress bars, the hub, compiled loops."""
