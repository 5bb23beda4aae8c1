"""Engines of sweeps: in this process, in processes of this machine, on SLURM, on Ray."""
