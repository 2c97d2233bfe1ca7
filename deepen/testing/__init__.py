"""Stand-ins behind the same protocols as the real things; everything they yield is labelled ``simulated``.

``bench.SimulatedBench`` is a whole bench in virtual time with known energy; ``device`` has the link, worker and runtime
it is made of, ``power`` the timeline and the meter, ``clock`` the clock, ``synthetic`` datasets and predictors that
need no measuring. Tests here and elsewhere use them; production code never asks whether it runs under a test.
"""
