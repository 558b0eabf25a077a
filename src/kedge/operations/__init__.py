"""What each op means: how it is cached, and how it is done. One file per op, each an Operation of the solver."""
