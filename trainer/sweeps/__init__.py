"""Sweeps: every combination of the choices on the command line, each a run in a folder of its own.

grid     the overrides of the command line -> axes, jobs and their checked settings; the only part that composes
stacks   which jobs go to a worker together, to train side by side
pool     worker processes and their supervisor: a job that dies or hangs costs no other
worker   what a process of the pool does; it knows nothing of Hydra
record   sweep.json, the one page that says how each job ended
running  a sweep on its way: jobs go out, and their ends come back
resumed  what an earlier try has left, and what of it is done again
plugins  the sweeper and the launcher that Hydra finds under the names grid and workers

``python -m trainer.sweep resume=FOLDER`` goes on with a sweep that did not end.
"""
