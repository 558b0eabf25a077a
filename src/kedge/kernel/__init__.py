"""System calls that Python lacks, paths resolved inside a root, and who we are to the kernel. Nothing else."""
