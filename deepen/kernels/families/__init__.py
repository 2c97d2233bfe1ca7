"""The anatomy of each kernel family: how its parameters are read off a graph, what it costs, how it is built again.

One module per group of families; each registers :class:`~deepen.kernels.families.definition.FamilyDefinition` objects
under the family's name. Everything a feature is computed from is derived from the parameters, so two kernels with equal
parameters have equal features wherever they come from.
"""
