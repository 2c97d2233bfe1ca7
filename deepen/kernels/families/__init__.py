"""Kernel families: reading their parameters off a graph, computing their costs, and building them again.

One module per group of families; each registers :class:`~deepen.kernels.families.definition.FamilyDefinition` objects
under the family's name. The functions ``_read``, ``_check``, ``_layout``, ``_ops``, ``_dims`` and ``_write`` of these
modules take and return what that class documents. Features are computed from the parameters alone, so two kernels with
equal parameters have equal features whatever their source.
"""
