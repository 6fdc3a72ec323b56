"""What the commands of the CLI do, once their options are read."""

INTERRUPTED = 130  # the exit code of a run that was stopped by hand
