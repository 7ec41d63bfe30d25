"""The heterogeneous speculative engine: draft on one device, verify on another, lose nothing."""
