"""What a genome costs on this machine: serving runtimes, profiler and latency table."""
