"""``python -m verdictscope`` is the command line."""

from verdictscope.cli import main

main()
