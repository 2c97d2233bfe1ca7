"""Kinds of trace files, one module each (:data:`deepen.traces.registry.FORMATS` names them)."""
