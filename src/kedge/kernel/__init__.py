"""System calls that Python lacks, paths resolved inside a root, who we are to the kernel, and what we take of it."""
