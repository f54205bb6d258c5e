"""``python -m verdictscope`` is the command line."""

from verdictscope.commands.main import main

main()
