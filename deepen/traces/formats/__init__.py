"""Trace file formats, one module each (:data:`deepen.traces.registry.FORMATS` names them)."""
