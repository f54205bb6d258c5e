"""What a finished run says on a terminal, by kind of study."""
